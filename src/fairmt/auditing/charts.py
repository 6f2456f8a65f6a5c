"""Charts as inline SVG: readable in light and dark, and never by colour alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from fairmt.auditing.intervals import wilson

MARKS = {
    "outside your tolerance": "▲",
    "above your tolerance, but not surely": "△",
    "within your tolerance": "✓",
    "too few people to tell": "?",
}
"""What stands beside a number, so that no verdict is told by colour alone."""
_FEW = 10
"""Bins with fewer people are not drawn."""
_DEPTHS = (0.05, 0.1, 0.2, 0.35)
"""Where the shades of the map change, for gaps that are shares."""


def text(x: float, y: float, content: str, anchor: str = "start", kind: str = "") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">'
        f"{escape(content)}</text>"
    )


def opened(width: float, height: float, label: str) -> str:
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
        f'aria-label="{escape(label, quote=True)}" style="max-width:{width:.0f}px">'
    )


def shade(gap: float) -> int:
    """Depth of colour of a gap, 0 to 4."""
    return sum(gap > d for d in _DEPTHS)


def forest(gaps: pd.DataFrame, tolerance: float | None) -> str:
    """Gaps with their intervals; the hollow mark is what chance alone would show."""
    if not len(gaps):
        return ""
    left, span, row = 330, 360, 26
    height = 44 + row * len(gaps)
    ends = [*gaps["high"], *gaps["gap"], tolerance or 0.0, 0.05]
    top = max(v for v in ends if not math.isnan(v))

    def at(value: float) -> float:
        return left + span * min(max(value, 0.0), top) / top

    parts = [opened(left + span + 60, height, "Gaps with intervals; the table below has them too")]
    for tick in ticks(0.0, top):
        parts.append(_line(at(tick), at(tick), 24, height - 12, "grid"))
        parts.append(text(at(tick), 16, f"{tick:g}", "middle", "dim"))
    if tolerance is not None:
        parts.append(_line(at(tolerance), at(tolerance), 24, height - 12, "limit"))
        parts.append(text(at(tolerance) + 4, height - 1, "tolerance", "start", "dim small"))
    for i, r in enumerate(gaps.to_dict("records")):
        y = 40 + row * i
        label = f"{r['task']}: {r['statistic']} by {r['attribute']}"
        parts.append(f"<g><title>{escape(label)}</title>")
        parts.append(text(left - 12, y + 4, short(label, 46), "end", "small"))
        if not math.isnan(r["low"]):
            parts.append(_line(at(r["low"]), at(r["high"]), y, y, "whisker"))
            for end in ("low", "high"):
                parts.append(_line(at(r[end]), at(r[end]), y - 4, y + 4, "whisker"))
        if not math.isnan(r["noise_floor"]):
            parts.append(f'<circle cx="{at(r["noise_floor"]):.1f}" cy="{y}" r="4" class="hollow"/>')
        parts.append(f'<circle cx="{at(r["gap"]):.1f}" cy="{y}" r="5" class="dot"/>')
        parts.append(text(at(r["gap"]) + 8, y - 6, f"{r['gap']:.2f}", "start", "small"))
        parts.append("</g>")
    return "".join(parts) + "</svg>"


def group_bars(
    groups: Sequence[dict[str, Any]], bounded: bool, label: str, form: Callable[[float], str]
) -> str:
    """A rate of every group, with interval and number of people."""
    left, span, row = 210, 320, 26
    height = 12 + row * len(groups)
    known = [g for g in groups if not math.isnan(g["value"])]
    ends = [v for g in known for v in (g["value"], g["low"], g["high"]) if not math.isnan(v)]
    low = 0.0 if bounded else min([0.0, *ends])
    high = 1.0 if bounded else max([0.0, *ends])
    high = high if high > low else low + 1.0

    def at(value: float) -> float:
        return left + span * (min(max(value, low), high) - low) / (high - low)

    parts = [opened(left + span + 140, height, label)]
    for i, g in enumerate(groups):
        y = 6 + row * i
        parts.append(f"<g><title>{escape(g['group'])}</title>")
        parts.append(text(left - 10, y + 15, short(group_name(g["group"]), 30), "end"))
        if math.isnan(g["value"]):
            note = f"too few to tell (n = {g['n']:,.0f})"
            parts.append(text(left + 4, y + 15, note, "start", "dim") + "</g>")
            continue
        start, end = sorted((at(0.0), at(g["value"])))
        parts.append(
            f'<rect x="{start:.1f}" y="{y + 2}" width="{max(end - start, 0.5):.1f}" '
            f'height="{row - 8}" class="bar"/>'
        )
        if not math.isnan(g["low"]):
            parts.append(_line(at(g["low"]), at(g["high"]), y + 11, y + 11, "whisker"))
        note = f"{form(g['value'])}  n = {g['n']:,.0f}"
        parts.append(text(left + span + 10, y + 15, note) + "</g>")
    parts.append(_line(at(0.0), at(0.0), 4, height - 4, "axis"))
    return "".join(parts) + "</svg>"


def reliability(bins: pd.DataFrame, label: str) -> str:
    """Observed share against predicted probability; marks as large as their bin is full."""
    size, pad = 190, 30
    parts = [opened(size, size, label)]

    def at(p: float, q: float) -> tuple[float, float]:
        return pad + (size - pad - 10) * p, size - pad - (size - pad - 10) * q

    (x0, y0), (x1, y1) = at(0, 0), at(1, 1)
    parts.append(f'<rect x="{x0}" y="{y1}" width="{x1 - x0}" height="{y0 - y1}" class="frame"/>')
    parts.append(f'<line x1="{x0}" y1="{y0}" x2="{x1}" y2="{y1}" class="grid"/>')
    shown = _pairs(bins)
    points = [at(p, q) for p, q in zip(shown["mean"], shown["share"], strict=True)]
    if len(points) > 1:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" class="trace"/>')
    low, high = wilson(shown["share"].to_numpy(), shown["observed"].to_numpy(), 0.95)
    most = max(shown["observed"], default=1.0)
    for (x, y), n, a, b in zip(points, shown["observed"], low, high, strict=True):
        parts.append(_line(x, x, at(0, a)[1], at(0, b)[1], "faint"))
        radius = 1.5 + 4 * math.sqrt(n / most)
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" class="dot"/>')
    for tick in (0, 0.5, 1):
        parts.append(text(at(tick, 0)[0], size - 14, f"{tick:g}", "middle", "dim small"))
        parts.append(text(pad - 5, at(0, tick)[1] + 4, f"{tick:g}", "end", "dim small"))
    parts.append(text((x0 + x1) / 2, size - 1, "predicted", "middle", "dim small"))
    return "".join(parts) + "</svg>"


def _pairs(bins: pd.DataFrame) -> pd.DataFrame:
    """Two bins in one, as far as enough people are in them."""
    n = bins["observed"].to_numpy()
    weighted = {c: np.nan_to_num(bins[c].to_numpy() * n) for c in ("mean", "share")}
    whole = n.reshape(-1, 2).sum(1)
    kept = whole >= _FEW
    columns = {c: v.reshape(-1, 2).sum(1)[kept] / whole[kept] for c, v in weighted.items()}
    return pd.DataFrame(columns | {"observed": whole[kept]})


def distribution(bins: pd.DataFrame, label: str) -> str:
    """How probabilities are distributed: a share per bin."""
    width, height, pad = 190, 70, 14
    total = max(float(bins["n"].sum()), 1.0)
    top = max(float((bins["n"] / total).max()), 1e-9)
    parts = [opened(width, height, label)]
    step = (width - 40) / len(bins)
    for i, n in enumerate(bins["n"]):
        tall = (height - pad - 6) * n / total / top
        parts.append(
            f'<rect x="{30 + i * step:.1f}" y="{height - pad - tall:.1f}" '
            f'width="{step - 1:.1f}" height="{tall:.1f}" class="bar"/>'
        )
    parts.append(_line(30, width - 10, height - pad, height - pad, "axis"))
    parts.append(text(30, height - 2, "0", "middle", "dim small"))
    parts.append(text(width - 10, height - 2, "1", "middle", "dim small"))
    return "".join(parts) + "</svg>"


def path(points: list[dict[str, Any]]) -> str:
    """The trade-off: change of utility against shortfall, every candidate of the run."""
    own = [p for p in points if p["segment"] != "warmup"]
    xs = [p["delta_m"] for p in own]
    ys = [p["shortfall"] for p in own]
    lines = _traces([p for p in own if p["segment"] == "path"])
    left, bottom, width = 60, 300, 560
    height = 340 if len(lines) < 2 else 364
    x0, x1 = min(xs) - 0.002, max([*xs, 0.0]) + 0.002
    y0, y1 = min(ys) * 0.92, max(ys) * 1.05 + 1e-6

    def px(v: float) -> float:
        return left + (width - left - 20) * (v - x0) / (x1 - x0)

    def py(v: float) -> float:
        return bottom - (bottom - 20) * (v - y0) / (y1 - y0)

    parts = [opened(width, height, "Change of utility and shortfall of every candidate")]
    for tick in ticks(x0, x1):
        parts.append(_line(px(tick), px(tick), 20, bottom, "grid"))
        parts.append(text(px(tick), bottom + 18, f"{tick:+.1%}", "middle", "dim"))
    for tick in ticks(y0, y1):
        parts.append(_line(left, width - 20, py(tick), py(tick), "grid"))
        parts.append(text(left - 8, py(tick) + 4, f"{tick:.3f}", "end", "dim"))
    for i, line in enumerate(lines):
        d = " ".join(f"{px(p['delta_m']):.1f},{py(p['shortfall']):.1f}" for p in line)
        dash = f'stroke-dasharray="{_DASHES[i % len(_DASHES)]}"'
        parts.append(f'<polyline points="{d}" class="trace" {dash}/>')
        if len(lines) > 1:
            start, under, repair = left + 150 * i, height - 10, line[0]["repair"]
            d = f"{start},{under} {start + 22},{under}"
            parts.append(f'<polyline points="{d}" class="trace" {dash}/>')
            words = f"repaired by {repair:.0%}" if repair else "as trained"
            parts.append(text(start + 28, under + 4, words, "start", "small"))
    for p in own:
        x, y = px(p["delta_m"]), py(p["shortfall"])
        repair = f", repaired by {p['repair']:.0%}" if p.get("repair") else ""
        tip = escape(
            f"epoch {p['epoch']}, λ {p['strength']:.2f}{repair}: utility {p['delta_m']:+.1%}, "
            f"shortfall {p['shortfall']:.3f}, gap {p['gap']:.3f}"
        )
        kind = "hollow" if p["segment"] == "plain" else "dot"
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" class="{kind}"><title>{tip}</title></circle>'
        )
        if p.get("chosen"):
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="10" class="ring"/>')
            parts.append(text(x + 14, y + 4, "chosen", "start"))
    parts.append(text((left + width) / 2, bottom + 36, "change of utility", "middle"))
    parts.append(text(left, 14, "shortfall of the worst-served groups", "start"))
    return "".join(parts) + "</svg>"


_DASHES = ("none", "7 4", "2 3")


def _traces(points: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Candidates that are joined by a line: those that are repaired alike, or all of them."""
    alike: dict[float, list[dict[str, Any]]] = {}
    for p in points:
        alike.setdefault(p.get("repair", 0.0), []).append(p)
    lines = [line for line in alike.values() if len(line) > 1]
    return lines or [points] if points else []


def changes(rows: pd.DataFrame, label: str) -> str:
    """Changes of the benefit of groups with intervals, around no change."""
    left, span, row = 300, 330, 26
    height = 40 + row * len(rows)
    most = max(0.02, *(abs(v) for c in ("low", "high", "change") for v in rows[c] if v == v))

    def at(value: float) -> float:
        return left + span * (value + most) / (2 * most)

    parts = [opened(left + span + 50, height, label)]
    for tick in ticks(-most, most):
        parts.append(_line(at(tick), at(tick), 24, height - 6, "grid"))
        parts.append(text(at(tick), 16, f"{tick:+g}" if tick else "0", "middle", "dim"))
    parts.append(_line(at(0), at(0), 24, height - 6, "axis"))
    for i, r in enumerate(rows.to_dict("records")):
        y = 40 + row * i
        name = f"{r['task']}: {r['statistic']}, {group_name(r['group'])}"
        parts.append(f"<g><title>{escape(name)}</title>")
        parts.append(text(left - 12, y + 4, short(name, 44), "end", "small"))
        parts.append(_line(at(r["low"]), at(r["high"]), y, y, "whisker"))
        kind = "hollow" if r["outcome"] == "paid" else "dot"
        parts.append(f'<circle cx="{at(r["change"]):.1f}" cy="{y}" r="5" class="{kind}"/></g>')
    return "".join(parts) + "</svg>"


def group_name(group: str) -> str:
    """A group without the names of its attributes."""
    return " & ".join(part.partition("=")[2] or part for part in group.split(" & "))


def short(content: str, most: int) -> str:
    return content if len(content) <= most else content[: most - 1] + "…"


def ticks(low: float, high: float) -> list[float]:
    raw = (high - low) / 5
    base = 10 ** math.floor(math.log10(raw)) if raw > 0 else 1.0
    step = next(base * m for m in (1, 2, 5, 10) if base * m >= raw)
    first = math.ceil(low / step)
    return [round(i * step, 10) + 0.0 for i in range(first, math.floor(high / step) + 1)]


def _line(x1: float, x2: float, y1: float, y2: float, kind: str) -> str:
    return f'<line x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}" class="{kind}"/>'
