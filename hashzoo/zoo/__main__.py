"""`make index`: write what follows from model_cards/ anew, the cards, index.json, and docs/zoo.md with its table and plots."""

from hashzoo.zoo.card import write_card
from hashzoo.zoo.index import shipped_folder, write_index
from hashzoo.zoo.table import read_entries, write

for config in shipped_folder().glob("*/config.json"):
    write_card(config.parent)
write_index()
write(shipped_folder().parent / "docs", read_entries(shipped_folder()))
