"""`python -m tools.probes`: after a new PREPROCESS_VERSION, write probe.json anew for each model whose weights are here."""

from hashzoo.zoo.folder import open_folder
from hashzoo.zoo.names import shipped_folder
from hashzoo.zoo.probe import write_probe

for config in shipped_folder().glob("*/config.json"):
    if (config.parent / "model.safetensors").exists():  # else the probe stays as it is and is compared more loosely
        write_probe(config.parent, open_folder(config.parent))
