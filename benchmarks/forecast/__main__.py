"""`python -m benchmarks.forecast --data DIR [--peers] [--history-days N] [--origins N]`.

Prints accuracy, calibration, time and memory as Markdown. All methods see the same pasts in one run, so that the ratios
hold on any machine; the milliseconds are this machine's.
"""

from __future__ import annotations

import argparse
import importlib.util
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.forecast import curves, peers
from runbooks_lib.capacity import Backtest, backtest
from runbooks_lib.capacity.baselines import (
    Method,
    drift,
    mixed_windows,
    no_growth,
    predict_linear,
    theil_sen,
)
from runbooks_lib.capacity.rolling import OURS, our_forecast
from runbooks_lib.errors import UsageError

REFERENCE = "mixed windows x 1.5"
_ONE_FORECAST = """
import pathlib
import resource
import numpy as np
from runbooks_lib.capacity import forecast
days = np.datetime64("2025-01-01") + np.arange(365)
forecast(days, np.cumsum(np.arange(365) % 7.0)).quantile(0.9, 90)
status = pathlib.Path("/proc/self/status")
# Linux lets ru_maxrss of a child begin with its parent's; VmHWM is the child's own.
lines = status.read_text().splitlines() if status.exists() else []
peak = [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
print(peak[0] if peak else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.forecast",
        description="Scores the forecast beside others.",
        epilog=curves.FOLDER_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder of curves")
    parser.add_argument("--generated", action="store_true", help="use made-up curves instead")
    parser.add_argument("--history-days", type=int, default=365, help="what each forecast may see (default 365)")
    parser.add_argument("--origins", type=int, default=24, help="forecasts per curve (default 24)")
    parser.add_argument("--peers", action="store_true", help="also Prophet and statsforecast, in their own environment")
    parser.add_argument(
        "--peer-venv", type=Path, metavar="DIR", help="where that is (default: the system's temp folder)"
    )
    options = parser.parse_args()
    if options.data is None and not options.generated:
        print(f"Which curves?\n\n{curves.FOLDER_HELP}", file=sys.stderr)
        return 2
    if options.peers and importlib.util.find_spec("prophet") is None:
        folder = options.peer_venv or Path(tempfile.gettempdir()) / "runbooks-forecast-peers"
        return peers.run_inside(folder, sys.argv[1:])
    try:
        tested = curves.generated() if options.generated else curves.read_folder(options.data)
        began = time.monotonic()
        told = backtest(
            tested,
            methods=_methods(options.peers),
            history_days=options.history_days,
            origins=options.origins,
            on_progress=_progress,
        )
    except UsageError as error:
        print(f"\n{error}", file=sys.stderr)
        return 2
    _progress("")
    print(f"{told.series} curves of {told.sources} sources, {told.origins} origins,", end=" ")
    print(f"{options.history_days} days of history before each.\n")
    for table in (_accuracy(told), _ratios(told), _arrivals(told), _calibration(told)):
        print(table + "\n")
    print(_cost(time.monotonic() - began))
    return 0


def _progress(name: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{name:60.60}\r", end="", file=sys.stderr, flush=True)


def _methods(with_peers: bool) -> dict[str, Method]:
    own: dict[str, Method] = {
        OURS: our_forecast,
        REFERENCE: mixed_windows(1.5),
        "mixed windows": mixed_windows(1.0),
        "no growth": no_growth,
        "drift": drift,
        "Theil-Sen 90 d": theil_sen,
        "predict_linear 6 h": predict_linear(0.25),
        "predict_linear 7 d": predict_linear(7),
        "predict_linear 30 d": predict_linear(30),
    }
    return {**own, **peers.methods()} if with_peers else own


def _joined(values: list[float], digits: int = 2) -> str:
    return " / ".join("–" if value != value else f"{value:.{digits}f}" for value in values)


def _accuracy(told: Backtest) -> str:
    days = "/".join(str(horizon) for horizon in told.horizons)
    lines = [
        f"| method ({days} days) | error | CRPS | cover of 80 % | above it "
        "| Brier skill | said ≤ 5 %, came | ms | refused |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for method in told.marks:
        if not told.marks[method]:
            lines.append(f"| {method} | – | – | – | – | – | – | – | {told.refused[method]} |")
            continue
        rows = told.scores(method)
        cells = [
            _joined([row.relative_error for row in rows]),
            _joined([row.relative_crps for row in rows]),
            _joined([row.cover80 for row in rows]),
            _joined([row.above for row in rows]),
            _joined([row.brier_skill for row in rows]),
            _joined([row.rare for row in rows], 3),
            f"{told.milliseconds(method):.2f}",
            str(told.refused[method]),
        ]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _ratios(told: Backtest) -> str:
    lines = [f"| CRPS as a ratio to {REFERENCE} | 7 d | 30 d | 90 d |", "|---|---|---|---|"]
    for method in told.marks:
        if method == REFERENCE or not told.marks[method]:
            continue
        cells = []
        for horizon in told.horizons:
            middle, low, high = told.ratio(method, REFERENCE, horizon)
            cells.append(f"{middle:.3f} [{low:.2f}, {high:.2f}]")
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", "In brackets: 90 % interval, sources drawn again."])


def _arrivals(told: Backtest) -> str:
    lines = [
        "| method | touched within 90 d | median error, days | median \\|log2\\| "
        "| over twice too late | cover 10-90 % |",
        "|---|---|---|---|---|---|",
    ]
    for method in told.marks:
        if told.marks[method]:
            row = told.arrival(method)
            lines.append(
                f"| {method} | {row.count} | {row.median_error_days:.0f} | {row.median_log2_ratio:.2f} "
                f"| {row.twice_too_late:.2f} | {row.cover80:.2f} |"
            )
    return "\n".join(lines)


def _calibration(told: Backtest) -> str:
    lines = ["| ours: said | came within 7 d | within 30 d | within 90 d |", "|---|---|---|---|"]
    tables = [{row[:2]: row for row in told.calibration(OURS, horizon)} for horizon in told.horizons]
    for key in sorted({key for table in tables for key in table}):
        cells = [f"{table[key][3]:.2f} (n={table[key][4]})" if key in table else "–" for table in tables]
        lines.append(f"| {key[0] * 100:.0f}-{key[1] * 100:.0f} % | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cost(seconds: float) -> str:
    times = []
    memory = 0
    for _ in range(5):
        began = time.perf_counter()
        ran = subprocess.run([sys.executable, "-c", _ONE_FORECAST], check=True, capture_output=True, text=True)
        times.append(time.perf_counter() - began)
        memory = int(ran.stdout)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return (
        f"Process, import and one forecast: {min(times):.2f} s (best of 5), {memory / 1024:.0f} MB. "
        f"This run: {seconds:.0f} s, {peak / 1024:.0f} MB."
    )


if __name__ == "__main__":
    sys.exit(main())
