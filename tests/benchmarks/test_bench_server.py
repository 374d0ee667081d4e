"""The benchmark of generators over servers, at its smallest and without vLLM."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("aiohttp")
pytest.importorskip("torch")

from benchmarks.server import __main__ as bench
from benchmarks.server import rows
from benchmarks.server.prefixes import Watched, blocks, letters
from benchmarks.server.serving import Served


@pytest.fixture(autouse=True)
def no_key_or_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def test_it_runs(tmp_path: Path) -> None:
    assert bench.main(["--effort", "tiny", "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("server-*.json")
    report = json.loads(path.read_text())
    found = {(row["what"], row["who"]): row["median"] for row in report["rows"]}
    assert min(found[rows.STEP, who] for who in (rows.AIOHTTP, rows.CLIENT, rows.SEARCH)) > 0
    assert {who for what, who in found if what == rows.ADDED} == {rows.CLIENT, rows.SEARCH}
    there = importlib.util.find_spec("openai") is not None
    assert ((rows.STEP, rows.BARE) in found) == ((rows.ADDED_TO_OPENAI, rows.SEARCH) in found) == there
    assert [target["verdict"] for target in report["targets"]][1:] == ["not measured"] * 3


def test_what_could_be_cached_is_whole_blocks_that_were_there() -> None:
    generator = Watched("m")
    ids = list(range(96))
    generator.seen.update(blocks(ids[:64]))
    generator.note(ids)
    assert generator.could == 64
    generator.note(ids[:64])  # its last token is computed in any case
    assert generator.could == 64 + 32
    generator.note([500, *ids])
    assert generator.could == 96
    assert generator.prompts == 96 + 64 + 97


def test_a_letter_is_a_token(tmp_path: Path) -> None:
    import bavt_fast as bavt

    letters(tmp_path)
    model = bavt.load(tmp_path, dtype="float32")
    assert model.facts.max_positions == 512
    assert len(model.tokenizer("abc\nxyz")["input_ids"]) == 7


def test_the_processor_time_of_a_server_is_that_of_its_session() -> None:
    busy = "import time\nend = time.process_time() + 0.5\nwhile time.process_time() < end: pass\nprint(1)\ninput()"
    command = [sys.executable, "-c", busy]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        took_s = Served("http://127.0.0.1:1", process.pid).processor_s()
        process.communicate("\n")
    assert 0.45 < took_s < 5.0
    assert Served("http://127.0.0.1:1", process.pid).processor_s() == 0.0
