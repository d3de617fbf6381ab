"""Writes folders as hashzoo 0.1.0 (format 3) and its predecessors (2 and 1) did."""

import json

import pyarrow as pa
import pyarrow.parquet as pq


def write(path, codes, ids, paths=None, sizes=None, mtimes_ns=None, *, number=3, preprocess=""):
    count = len(codes)
    facts = {"format": number, "model": codes.model, "bits": codes.bits, "preprocess": preprocess}
    if number >= 2:
        facts["weights"] = codes.weights
    if number >= 3:
        facts["precision"] = codes.precision
    width = codes.packed.shape[1]
    columns = {
        "id": pa.array(ids, pa.int64()),
        "path": pa.array(paths or [None] * count, pa.string()),
        "code": pa.array([row.tobytes() for row in codes.packed], pa.binary(width)),
    }
    if number >= 2:
        columns["size"] = pa.array(sizes or [None] * count, pa.int64())
        columns["mtime_ns"] = pa.array(mtimes_ns or [None] * count, pa.int64())
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns).replace_schema_metadata({"hashzoo": json.dumps(facts)})
    pq.write_table(table, path, compression="zstd", use_dictionary=False, write_page_checksum=True)
