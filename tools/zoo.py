"""`make index`: write what follows from model_cards/ anew, the cards, catalog.json, and docs/zoo.md with its table and plots."""

from hashzoo.release.card import write_card
from hashzoo.release.catalog import write_catalog
from hashzoo.release.table import read_entries, write
from hashzoo.zoo.names import shipped_folder

for config in shipped_folder().glob("*/config.json"):
    write_card(config.parent)
write_catalog()
write(shipped_folder().parent / "docs", read_entries(shipped_folder()))
