"""Uploads small files that take a machine down if they are read carelessly, and watches the API meanwhile.

Run::

    python -m benchmarks.reading.bombs

It starts the API in a process of its own and posts each file of ``BOMBS``, then several at once, and last a large
ordinary one. It prints the answer, the seconds until it came, the largest memory of the API, and the longest time in
which ``/healthz`` did not answer. The four files over a megabyte are made here; tests use the others too.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx2 as httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet
from PIL import Image

from service.processes import memory_bytes

MIB: Final = 1 << 20
RESULTS: Final = Path(__file__).with_name("bombs.json")
PING_S: Final = 0.01
"""Pause between two requests to /healthz."""


def parquet(table: pa.Table, **options: object) -> bytes:
    """Return a table as a Parquet file."""
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer, **options)
    return buffer.getvalue()


def zipped(files: Mapping[str, bytes]) -> bytes:
    """Return a zip of files, compressed as well as it goes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def npy(header: str, body: bytes) -> bytes:
    """Return a .npy file with any header."""
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header.encode() + b"\n" + body


def many_rows(millions: int) -> bytes:
    """Rows of two numbers that are all the same."""
    piece = pa.table({"x": pa.array(np.zeros(1 << 20)), "y": pa.array(np.zeros(1 << 20))})
    return parquet(pa.concat_tables([piece] * millions), row_group_size=1 << 28, compression="zstd")


def repeated_text() -> bytes:
    """One text of two megabytes, that a dictionary repeats in 4,000 rows."""
    codes = pa.array(np.zeros(4000, np.int32))
    texts = pa.DictionaryArray.from_arrays(codes, pa.array(["x" * 2 * MIB, "y"]))
    return parquet(pa.table({"text": texts, "label": pa.array(np.arange(4000) % 2)}), compression="zstd")


def deep_parquet() -> bytes:
    """Lists within lists, 60 deep."""
    kind: pa.DataType = pa.int64()
    value: object = 1
    for _ in range(60):
        kind, value = pa.list_(kind), [value]
    return parquet(pa.table({"x": pa.array([value] * 20, kind)}))


def deep_type() -> bytes:
    """A Feather file with a type that is nested 5,000 deep."""
    kind: pa.DataType = pa.int64()
    for _ in range(5000):
        kind = pa.list_(kind)
    buffer = io.BytesIO()
    schema = pa.schema([pa.field("x", kind)])
    with pa.ipc.new_file(buffer, schema):
        pass
    return buffer.getvalue()


def shape_only() -> bytes:
    """An array that says it has 2^40 rows, and has 80 bytes."""
    array = npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776, 3)}", bytes(80))
    return zipped({"x.npy": array})


def zeros(size_bytes: int) -> bytes:
    """An NPZ with nothing but zeros, which deflate makes a thousand times smaller."""
    header = f"{{'descr': '|b1', 'fortran_order': False, 'shape': ({size_bytes >> 8}, 256)}}"
    return zipped({"x.npy": npy(header, bytes(size_bytes >> 8 << 8))})


class _Shell:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("true",)


def pickled() -> bytes:
    """An array of objects, with a pickle that would run a command."""
    header = "{'descr': '|O', 'fortran_order': False, 'shape': (20, 3)}"
    return zipped({"x.npy": npy(header, pickle.dumps([_Shell()]))})


def images(count: int) -> bytes:
    """A zip of one-coloured images of the largest size, each a few kilobytes."""
    buffer = io.BytesIO()
    Image.new("RGB", (1024, 1024)).save(buffer, "PNG", compress_level=9)
    return zipped({f"{index % 2}/{index}.png": buffer.getvalue() for index in range(count)})


def zip_of_zips(depth: int = 6, width: int = 10) -> bytes:
    """Zips in zips: a million files of a megabyte at the bottom."""
    content = zipped({"0": bytes(MIB)})
    for _ in range(depth):
        content = zipped({f"{index % 2}/{index}.zip": content for index in range(width)})
    return content


def many_files() -> bytes:
    """A zip of 100,000 empty files."""
    return zipped({f"{index % 2}/{index}.png": b"" for index in range(100_000)})


def sheet(rows: str) -> bytes:
    """Return a workbook of Excel with one sheet."""
    main, office = "http://schemas.openxmlformats.org/spreadsheetml/2006/main", "http://schemas.openxmlformats.org"
    kind = f"{office}/officeDocument/2006/relationships"
    links = f'<Relationships xmlns="{office}/package/2006/relationships"><Relationship Id="r1" '
    return zipped(
        {
            "[Content_Types].xml": f'<Types xmlns="{office}/package/2006/content-types"/>'.encode(),
            "_rels/.rels": f'{links}Type="{kind}/officeDocument" Target="xl/workbook.xml"/></Relationships>'.encode(),
            "xl/workbook.xml": f'<workbook xmlns="{main}" xmlns:r="{kind}"><sheets><sheet name="a" sheetId="1" '
            'r:id="r1"/></sheets></workbook>'.encode(),
            "xl/_rels/workbook.xml.rels": f'{links}Type="{kind}/worksheet" Target="worksheets/sheet1.xml"/>'
            "</Relationships>".encode(),
            "xl/worksheets/sheet1.xml": f'<worksheet xmlns="{main}"><sheetData>{rows}</sheetData></worksheet>'.encode(),
        }
    )


def far_cell() -> bytes:
    """A sheet with two cells: the first one and the last one that Excel has."""
    cell = '<row r="{1}"><c r="{0}{1}"><v>1</v></c></row>'
    return sheet(cell.format("A", 1) + cell.format("XFD", 1048576))


def one_text() -> bytes:
    """A sheet with one text of 800 megabytes."""
    return sheet(f'<row r="1"><c r="A1" t="str"><v>{"x" * 800 * MIB}</v></c></row>')


def lines(header: str, row: str, count: int) -> bytes:
    """Return a CSV file with the same row again and again."""
    return (header + "\n" + (row + "\n") * count).encode()


def empty_cells(rows: int) -> bytes:
    """A CSV file of 4,000 columns without a value."""
    return lines(",".join(f"c{index}" for index in range(4000)), "," * 3999, rows)


def wide_table(columns: int) -> bytes:
    """A CSV file with many columns."""
    return lines(",".join(f"c{index}" for index in range(columns)), ",".join(["1"] * columns), 1)


BOMBS: Final[dict[str, tuple[str, Callable[[], bytes]]]] = {
    "a Parquet file of many equal rows": ("a.parquet", lambda: many_rows(230)),
    "a text of two megabytes in each of 4,000 rows": ("a.parquet", repeated_text),
    "lists within lists": ("a.parquet", deep_parquet),
    "a type that is nested 5,000 deep": ("a.feather", deep_type),
    "a CSV file of 300,000 columns": ("a.csv", lambda: wide_table(300_000)),
    "a CSV file of one line": ("a.csv", lambda: b"a,b\n" + b"1," * (4 * MIB)),
    "a CSV file of one cell": ("a.csv", lambda: b'a,b\n"' + b"x\n" * (10 * MIB) + b'",1\n'),
    "a CSV file of empty cells": ("a.csv.gz", lambda: gzip.compress(empty_cells(200_000), 9)),
    "a CSV file of quotes": ("a.csv", lambda: b"a,b\n" + b'"",""\n' * (MIB // 2) + b'"' * (2 * MIB + 1)),
    "a CSV file of letters in escapes": ("a.csv", lambda: lines("a,b", "\\u0041" * 300_000 + ",1", 20)),
    "gzip in gzip": ("a.csv.gz", lambda: gzip.compress(gzip.compress(lines("a,b", "1,2", 1000)))),
    "a CSV file of zeros in gzip": ("a.csv.gz", lambda: gzip.compress(bytes(2000 * MIB), 9)),
    "a sheet of one text": ("a.xlsx", one_text),
    "a sheet with its last cell": ("a.xlsx", far_cell),
    "an array with a shape of terabytes": ("a.npz", shape_only),
    "an array of objects": ("a.npz", pickled),
    "two gigabytes of zeros": ("a.npz", lambda: zeros(2000 * MIB)),
    "a zip of 4,000 images": ("a.zip", lambda: images(4000)),
    "a zip of zips": ("a.zip", zip_of_zips),
    "a zip of 100,000 files": ("a.zip", many_files),
}  # fmt: skip
"""What it is -> name of the file, and what makes it."""


class Watch(threading.Thread):
    """Asks ``/healthz`` and looks at the memory of the API until it is stopped."""

    def __init__(self, url: str, pid: int) -> None:
        super().__init__(daemon=True)
        self._url, self._pid, self._stopped = url, pid, threading.Event()
        self.slowest_s, self.most_bytes = 0.0, memory_bytes(pid)

    def run(self) -> None:
        with httpx.Client(base_url=self._url, timeout=60) as client:
            while not self._stopped.wait(PING_S):
                asked = time.monotonic()
                client.get("/healthz").raise_for_status()
                self.slowest_s = max(self.slowest_s, time.monotonic() - asked)
                self.most_bytes = max(self.most_bytes, memory_bytes(self._pid))

    def stop(self) -> None:
        self._stopped.set()
        self.join()


@contextmanager
def api(folder: Path) -> Iterator[tuple[str, int]]:
    """Run the API without a worker; yield its URL and process id."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    places = {"WARPTUNE_DATABASE_URL": f"sqlite:///{folder}/a.db", "WARPTUNE_ARTIFACTS_URL": str(folder / "files")}
    command = [sys.executable, "-m", "service", "serve", "--no-worker", "--port", str(port)]
    log = (folder / "log").open("w")
    process = subprocess.Popen(command, env={**os.environ, **places}, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                httpx.get(f"{url}/healthz").raise_for_status()
                break
            except httpx.TransportError:
                time.sleep(0.1)
        yield url, process.pid
    finally:
        process.terminate()
        process.wait()
        log.close()


def post(url: str, name: str, content: bytes) -> tuple[int, str]:
    """Upload a file; return the status and the sentence of the answer."""
    answer = httpx.post(f"{url}/v1/datasets", params={"filename": name}, content=content, timeout=300)
    document = answer.json()
    return answer.status_code, document.get("detail") or f"{document['rows']} rows"


def measure(url: str, pid: int, what: str, files: list[tuple[str, bytes]]) -> dict[str, object]:
    """Upload files at once and print what happened."""
    watch = Watch(url, pid)
    watch.start()
    began = time.monotonic()
    with ThreadPoolExecutor(len(files)) as threads:
        answers = list(threads.map(lambda file: post(url, *file), files))
    seconds = time.monotonic() - began
    watch.stop()
    status, sentence = answers[0]
    size = sum(len(content) for _, content in files)
    measured = {"bytes": size, "status": status, "seconds": round(seconds, 2), "sentence": sentence}
    measured |= {"api_mib": watch.most_bytes // MIB, "slowest_healthz_ms": round(1000 * watch.slowest_s)}
    print(f"{what:44} {size:>12,} B  {status}  {seconds:5.1f} s  API {measured['api_mib']} MiB  "
          f"/healthz {measured['slowest_healthz_ms']} ms\n    {sentence[:150]}", flush=True)  # fmt: skip
    return measured


def ordinary(rows: int) -> bytes:
    """A CSV file with numbers and words."""
    numbers = np.random.default_rng(0).normal(size=(1000, 20))
    piece = "".join(f"{','.join(f'{value:.6f}' for value in row)},{index % 7}\n" for index, row in enumerate(numbers))
    return (",".join([*(f"x{index}" for index in range(20)), "label"]) + "\n" + piece * (rows // 1000)).encode()


def main() -> None:
    """Measure everything and write ``bombs.json``."""
    results = {}
    with tempfile.TemporaryDirectory() as folder, api(Path(folder)) as (url, pid):
        print(f"the idle API takes {memory_bytes(pid) // MIB} MiB")
        for what, rows in (("an ordinary file, the first", 1000), ("an ordinary file", 2000)):
            results[what] = measure(url, pid, what, [("a.csv", ordinary(rows))])
        for what, (name, make) in BOMBS.items():
            results[what] = measure(url, pid, what, [(name, make())])
        four = [(name, make()) for name, make in list(BOMBS.values())[:2] * 2]
        results["four at once"] = measure(url, pid, "four at once", four)
        large = ordinary(1_090_000)
        results["an ordinary file of 200 MB"] = measure(url, pid, "an ordinary file of 200 MB", [("c.csv", large)])
        print(Path(folder, "log").read_text()[-2000:])
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
