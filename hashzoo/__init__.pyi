"""The public names of hashzoo, each with the module that holds it; `__init__.py` reads this file."""

from hashzoo.builtin.losses import classification as classification
from hashzoo.builtin.losses import pairwise_likelihood as pairwise_likelihood
from hashzoo.builtin.quantizers import sign as sign
from hashzoo.codes import Codes as Codes
from hashzoo.config import ComponentRef as ComponentRef
from hashzoo.config import PreprocessConfig as PreprocessConfig
from hashzoo.errors import CodesError as CodesError
from hashzoo.errors import ConfigError as ConfigError
from hashzoo.errors import DataError as DataError
from hashzoo.errors import HashzooError as HashzooError
from hashzoo.errors import HubError as HubError
from hashzoo.errors import ImageError as ImageError
from hashzoo.errors import PluginError as PluginError
from hashzoo.errors import UnknownNameError as UnknownNameError
from hashzoo.errors import UnreachableError as UnreachableError
from hashzoo.errors import WeightsError as WeightsError
from hashzoo.evaluation import evaluate as evaluate
from hashzoo.hookspecs import Backbone as Backbone
from hashzoo.hookspecs import Encoder as Encoder
from hashzoo.hookspecs import HashOutput as HashOutput
from hashzoo.hookspecs import Head as Head
from hashzoo.hookspecs import Loss as Loss
from hashzoo.hookspecs import Quantizer as Quantizer
from hashzoo.hookspecs import Register as Register
from hashzoo.hookspecs import hookimpl as hookimpl
from hashzoo.index import Hits as Hits
from hashzoo.index import Index as Index
from hashzoo.index import RangeHits as RangeHits
from hashzoo.ingest import build_index as build_index
from hashzoo.network import HashNetwork as HashNetwork
from hashzoo.pretrained import HashModel as HashModel
from hashzoo.pretrained import create_model as create_model
from hashzoo.pretrained import load as load
from hashzoo.pretrained import save as save
from hashzoo.registry import register as register
from hashzoo.training import train as train
from hashzoo.zoo.names import list_models as list_models

__version__: str
