"""`kimi-k2 bench` runs a known benchmark program, shows its command, keeps and draws its figures, compares two runs."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from kimi_k2_cli.bench.chart import draw
from kimi_k2_cli.bench.comparing import compared, read_run
from kimi_k2_cli.bench.figures import BenchFigures, BenchLoad, BenchRun, Spread
from kimi_k2_cli.bench.results import read_result
from kimi_k2_cli.bench.tools import BenchTool
from kimi_k2_cli.main import main
from kimi_k2_serving.core.errors import InvalidValue
from tests.cli.bench_outputs import AIPERF, GUIDELLM, PERF_ANALYZER

OUTPUTS = {
    BenchTool.AIPERF: AIPERF.encode(),
    BenchTool.GUIDELLM: GUIDELLM.encode(),
    BenchTool.PERF_ANALYZER: PERF_ANALYZER,
}
LOAD = BenchLoad("http://h:1", "kimi_k2", 2, 20, 64, 32)
SPREAD = Spread(20.0, 18.0, 30.0, 50.0)


def run_of(*, rate: float = 2.0, first: float = 18.0, failed: int = 0, load: BenchLoad = LOAD) -> BenchRun:
    spread = Spread(20.0, first, 30.0, 50.0)
    return BenchRun("aiperf", "aiperf profile", 0, load, BenchFigures(20, failed, rate, 64.0, spread, SPREAD, SPREAD))


def write_run(folder: Path, run: BenchRun) -> str:
    folder.mkdir()
    (folder / "bench.json").write_text(json.dumps(run.as_json()))
    return str(folder)


@pytest.mark.parametrize(
    ("tool", "words"),
    [
        ("aiperf", ["--url", "http://h:1", "--concurrency", "3", "--isl", "9", "--osl", "7"]),
        (
            "guidellm",
            [
                '{"kind": "openai_http", "target": "http://h:1", "model": "kimi_k2"}',
                '{"kind": "concurrent", "streams": 3}',
                '{"kind": "synthetic_text", "prompt_tokens": 9, "output_tokens": 7}',
            ],
        ),
        ("perf_analyzer", ["-u", "h:1", "--concurrency-range", "3", "--streaming"]),
    ],
)
def test_the_exact_command_is_shown(tool: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    load = ["--concurrency", "3", "--inputs", "9", "--outputs", "7"]
    assert main(["bench", "http://h:1", "--tool", tool, "--print", *load]) == 0
    shown = shlex.split(capsys.readouterr().out)
    assert shown[0] == tool
    assert all(word in shown for word in words)


def test_the_programs_add_v1_to_a_url_themselves(capsys: pytest.CaptureFixture[str]) -> None:
    for tool in ("aiperf", "guidellm"):
        assert main(["bench", "http://h:1/v1/", "--tool", tool, "--print"]) == 0
        assert "/v1" not in capsys.readouterr().out


def program(path: Path, body: str) -> None:
    path.write_text(f"#!{sys.executable}\nimport sys\nfrom pathlib import Path\n{body}\n")
    path.chmod(0o755)


@pytest.mark.parametrize("tool", BenchTool)
def test_an_installed_program_is_run_and_its_figures_are_kept_and_drawn(
    tool: BenchTool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    body = f"print('its own words')\nPath({str(out / tool.result)!r}).write_bytes({OUTPUTS[tool]!r})"
    program(tmp_path / tool, body)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["bench", "http://h:1", "--output", str(out), "--inputs", "5", "--json"]) == 0
    printed, told = capfd.readouterr()
    document = json.loads(printed)
    assert document == json.loads((out / "bench.json").read_text())
    assert told.splitlines() == [document["command"], "its own words"]
    assert document["figures"]["requests"] in (2, 20, 64)
    assert ElementTree.parse(out / "bench.svg").getroot().tag.endswith("svg")
    if tool is BenchTool.PERF_ANALYZER:
        (row,) = json.loads((out / "input.json").read_text())["data"]
        assert len(row["text_input"][0].split()) == 5


def test_an_older_perf_analyzer_counts_in_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for helped, expected in (("--measurement-mode", "--measurement-request-count 9"), ("--request-count", "-count 9")):
        program(tmp_path / "perf_analyzer", f"print({helped!r})")
        assert main(["bench", "h:1", "--requests", "9", "--print"]) == 0
        shown = capsys.readouterr().out
        assert expected in shown
        assert ("--measurement-mode" in shown) == (helped == "--measurement-mode")


def test_a_program_that_fails_or_leaves_nothing_is_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    out = tmp_path / "out"
    out.mkdir()
    (out / BenchTool.AIPERF.result).write_text(AIPERF)
    program(tmp_path / "aiperf", "sys.exit(3)")
    assert main(["bench", "http://h:1", "--output", str(out)]) == 3
    assert "it may need --tokenizer DIR" in capfd.readouterr().err
    # The result of an earlier run is not taken for this one's.
    assert json.loads((out / "bench.json").read_text())["figures"] is None
    program(tmp_path / "aiperf", "")
    assert main(["bench", "http://h:1", "--output", str(out)]) == 2
    assert "its own output says why" in capfd.readouterr().err
    errors = AIPERF.replace('"request_error_rate"', '"error_request_count": {"avg": 3}, "request_error_rate"')
    program(tmp_path / "aiperf", f"Path({str(out / BenchTool.AIPERF.result)!r}).write_text({errors!r})")
    assert main(["bench", "http://h:1", "--output", str(out)]) == 1
    assert "64 requests, 3 failed" in capfd.readouterr().out


def test_without_a_program_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["bench", "http://h:1"]) == 1
    assert "pip install aiperf" in capsys.readouterr().err
    assert main(["bench", "http://h:1", "--tool", "guidellm"]) == 1


@pytest.mark.parametrize(
    ("tool", "expected"),
    [
        (
            BenchTool.AIPERF,
            BenchFigures(
                64,
                0,
                11.5,
                757.1,
                Spread(169.2, 62.8, 518.3, 525.7),
                Spread(17.7, 19.2, 19.5, 20.0),
                Spread(1318.3, 1314.2, 1365.6, 1373.8),
            ),
        ),
        (
            BenchTool.GUIDELLM,
            BenchFigures(
                20,
                0,
                1.0,
                32.0,
                Spread(274.0, 122.6, 252.2, 2061.7),
                Spread(51.3, 38.2, 71.2, 177.2),
                Spread(1880.0, 1300.0, 2380.0, 6630.0),
            ),
        ),
        (
            BenchTool.PERF_ANALYZER,
            BenchFigures(
                2,
                0,
                4.0,
                None,
                Spread(200.0, 100.0, 300.0, 300.0),
                Spread(120.0, 40.0, 200.0, 200.0),
                Spread(340.0, 180.0, 500.0, 500.0),
            ),
        ),
    ],
)
def test_what_the_programs_wrote_is_read_into_one_form(tool: BenchTool, expected: BenchFigures, tmp_path: Path) -> None:
    (tmp_path / tool.result).write_bytes(OUTPUTS[tool])
    found = read_result(tool, tmp_path)
    assert (found.requests, found.failed, found.output_tokens_per_second) == (
        expected.requests,
        expected.failed,
        expected.output_tokens_per_second,
    )
    assert found.requests_per_second == pytest.approx(expected.requests_per_second)
    for (_, one), (_, other) in zip(found.spreads, expected.spreads, strict=True):
        assert one is not None
        assert other is not None
        assert (one.mean, one.p50, one.p90, one.p99) == pytest.approx((other.mean, other.p50, other.p90, other.p99))


@pytest.mark.parametrize("tool", BenchTool)
@pytest.mark.parametrize("text", ["", "[]", "{}", '{"benchmarks": [], "experiments": [], "request_count": 3}'])
def test_an_unknown_form_is_named_and_not_guessed(tool: BenchTool, text: str, tmp_path: Path) -> None:
    (tmp_path / tool.result).write_text(text)
    if tool is BenchTool.AIPERF and text == "{}":
        assert read_result(tool, tmp_path).requests == 0
        return
    with pytest.raises(InvalidValue, match="not of the form"):
        read_result(tool, tmp_path)


def compare(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    code = main(["bench", "compare", *arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_two_runs_are_compared_and_a_loss_is_the_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = write_run(tmp_path / "before", run_of())
    same = write_run(tmp_path / "same", run_of(rate=1.9, first=19.0))
    slower = write_run(tmp_path / "slower", run_of(rate=1.0, first=9.0))
    failing = write_run(tmp_path / "failing", run_of(failed=1))
    assert compare(capsys, before, same)[0] == 0
    assert compare(capsys, before, same, "--tolerance", "2")[0] == 1
    code, document = compare(capsys, before, slower)
    assert (code, document["worse"]) == (1, ["requests/s"])
    rows = {row["figure"]: row for row in document["figures"]}
    assert rows["requests/s"]["ratio"] == 0.5
    assert rows["time to the first token, p50 (ms)"]["verdict"] == "better"
    assert compare(capsys, before, failing)[1]["worse"] == ["failed requests"]
    chart = tmp_path / "both.svg"
    assert main(["bench", "compare", before, slower, "--chart", str(chart)]) == 1
    assert "0.500  worse" in capsys.readouterr().out
    assert "slower" in chart.read_text()


def test_a_mean_and_a_high_percentile_of_few_requests_decide_nothing() -> None:
    figures = run_of().figures
    assert figures is not None
    (mean, median) = [row for row in compared(figures, figures, 0.1) if "first token" in row.figure][:2]
    assert (mean.verdict, median.verdict) == ("", "same")


def test_other_loads_are_told_and_what_is_no_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = write_run(tmp_path / "before", run_of())
    other = write_run(tmp_path / "other", run_of(load=BenchLoad("http://h:2", "kimi_k2", 4, 20, 64, 32)))
    assert compare(capsys, before, other)[1]["loads_differ"] == ["concurrency: 2 before, 4 after"]
    guide = write_run(tmp_path / "guide", BenchRun("guidellm", "", 0, LOAD, run_of().figures))
    assert main(["bench", "compare", before, guide]) == 2
    assert "compare runs of one program" in capsys.readouterr().err
    none = write_run(tmp_path / "none", BenchRun("aiperf", "", 1, LOAD, None))
    assert main(["bench", "compare", before, none]) == 2
    (tmp_path / "none" / "bench.json").write_text("[1]")
    assert main(["bench", "compare", before, none]) == 2
    assert main(["bench", "compare", before, str(tmp_path / "nowhere")]) == 2
    assert main(["bench", "compare", before]) == 2
    assert main(["bench", "http://h:1", before]) == 2


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    run = BenchRun("perf_analyzer", "a b", 0, LOAD, BenchFigures(2, 0, 4.0, None, SPREAD, None, SPREAD))
    assert read_run(Path(write_run(tmp_path / "run", run))) == run


def test_bars_are_as_long_as_their_values_and_text_is_escaped() -> None:
    figures = BenchFigures(20, 0, 2.0, None, Spread(10.0, 5.0, 20.0, 40.0), None, None)
    root = ElementTree.fromstring(draw([("a<b>&: ", BenchRun("aiperf", "", 0, LOAD, figures))]))
    bars = [float(each.attrib["width"]) for each in root.iter() if each.attrib.get("height") == "16"]
    assert [bar / bars[-1] for bar in bars] == pytest.approx([0.25, 0.125, 0.5, 1.0], abs=1e-3)
    assert any("a<b>&: aiperf" in (each.text or "") for each in root.iter())
    assert len(list(ElementTree.fromstring(draw([("", BenchRun("aiperf", "", 1, LOAD, None))])).iter())) == 4


def test_without_an_endpoint_the_command_says_what_to_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--print"]) == 2
    assert "name the endpoint, as in kimi-k2 bench http://127.0.0.1:9000" in capsys.readouterr().err


@pytest.mark.parametrize(("tool", "place"), [("aiperf", "--api-key sk-1"), ("guidellm", '"api_key": "sk-1"')])
def test_a_key_reaches_the_program_and_no_screen_or_file(
    tool: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    key, seen, out = tmp_path / "key", tmp_path / "seen", tmp_path / "out"
    key.write_text("sk-1\n")
    program(tmp_path / tool, f"Path({str(seen)!r}).write_text(' '.join(sys.argv[1:]))")
    monkeypatch.setenv("PATH", str(tmp_path))
    main(["bench", "http://h:1", "--api-key-file", str(key), "--output", str(out)])
    assert place in seen.read_text()
    printed = "".join(capfd.readouterr())
    assert place.replace("sk-1", "KEY") in printed
    assert "sk-1" not in printed + (out / "bench.json").read_text() + (out / "bench.svg").read_text()


def test_a_key_for_triton_itself_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = tmp_path / "key"
    key.write_text("sk-1")
    assert main(["bench", "h:1", "--tool", "perf_analyzer", "--print", "--api-key-file", str(key)]) == 2
    assert "perf_analyzer measures Triton, which has no keys" in capsys.readouterr().err
