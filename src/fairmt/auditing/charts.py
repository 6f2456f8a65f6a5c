"""Charts as inline SVG: readable in light and dark, and never by colour alone."""

from __future__ import annotations

import math
from html import escape
from typing import Any

import pandas as pd


def _text(x: float, y: float, text: str, anchor: str = "start", kind: str = "") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(text)}</text>'
    )


def _open(width: float, height: float, label: str) -> str:
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
        f'aria-label="{escape(label, quote=True)}" style="max-width:{width:.0f}px">'
    )


def heat_map(gaps: pd.DataFrame, tolerance: float | None) -> str:
    """Task by attribute: the worst gap of each, as number and as depth of colour."""
    if not len(gaps):
        return ""
    table = gaps.pivot_table(
        index="task", columns="attribute", values="gap", aggfunc="max", sort=False
    )
    left, cell, row = 170, 110, 38
    width, height = left + cell * table.shape[1] + 10, 34 + row * table.shape[0]
    parts = [_open(width, height, "Worst gap of every task and attribute")]
    for j, name in enumerate(table.columns):
        parts.append(_text(left + cell * (j + 0.5), 20, _short(str(name), 16), "middle"))
    for i, (task, values) in enumerate(table.iterrows()):
        y = 30 + row * i
        parts.append(_text(left - 10, y + row / 2 + 5, _short(str(task), 22), "end"))
        for j, value in enumerate(values):
            x = left + cell * j
            if math.isnan(value):
                parts.append(_text(x + cell / 2, y + row / 2 + 5, "–", "middle", "dim"))
                continue
            opacity = min(1.0, 0.08 + 1.2 * value)
            mark = ""
            if tolerance is not None:
                mark = " ▲" if value > tolerance else " ✓"
            ink = "on" if opacity > 0.55 else ""
            parts.append(
                f'<rect x="{x + 2}" y="{y + 2}" width="{cell - 4}" height="{row - 4}" rx="4" '
                f'class="heat" fill-opacity="{opacity:.2f}"/>'
            )
            parts.append(_text(x + cell / 2, y + row / 2 + 5, f"{value:.2f}{mark}", "middle", ink))
    return "".join(parts) + "</svg>"


def forest(gaps: pd.DataFrame, tolerance: float | None) -> str:
    """Gaps with their intervals; the hollow mark is what chance alone would show."""
    if not len(gaps):
        return ""
    left, span, row = 330, 360, 24
    height = 40 + row * len(gaps)
    top = max(float(gaps["high"].max()), float(gaps["gap"].max()), tolerance or 0.0, 0.05)
    top = top if not math.isnan(top) else float(gaps["gap"].max())

    def at(value: float) -> float:
        return left + span * value / top

    parts = [_open(left + span + 60, height, "Gaps with intervals")]
    for tick in _ticks(top):
        x = at(tick)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="24" y2="{height - 8}" class="grid"/>')
        parts.append(_text(at(tick), 16, f"{tick:g}", "middle", "dim"))
    if tolerance is not None:
        x = at(tolerance)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="24" y2="{height - 8}" class="limit"/>')
        parts.append(_text(x + 3, height - 1, "tolerance", "start", "dim small"))
    for i, (_, r) in enumerate(gaps.iterrows()):
        y = 38 + row * i
        label = f"{r['task']}: {r['statistic']} by {r['attribute']}"
        parts.append(_text(left - 12, y + 4, _short(label, 48), "end", "small"))
        if not math.isnan(r["low"]):
            parts.append(
                f'<line x1="{at(r["low"]):.1f}" x2="{at(r["high"]):.1f}" y1="{y}" y2="{y}" '
                'class="whisker"/>'
            )
        if not math.isnan(r["noise_floor"]):
            parts.append(f'<circle cx="{at(r["noise_floor"]):.1f}" cy="{y}" r="4" class="hollow"/>')
        parts.append(f'<circle cx="{at(r["gap"]):.1f}" cy="{y}" r="5" class="dot"/>')
        parts.append(_text(at(r["gap"]) + 9, y - 5, f"{r['gap']:.2f}", "start", "small"))
    return "".join(parts) + "</svg>"


def group_bars(groups: list[dict[str, Any]]) -> str:
    """A rate of every group, with interval and number of people."""
    left, span, row = 190, 300, 26
    height = 10 + row * len(groups)
    parts = [_open(left + span + 130, height, "Rate of every group")]
    for i, g in enumerate(groups):
        y = 6 + row * i
        name = g["group"].partition("=")[2] if "&" not in g["group"] else g["group"]
        parts.append(_text(left - 10, y + 15, _short(name, 26), "end"))
        if math.isnan(g["value"]):
            note = f"too few to tell (n = {g['n']:.0f})"
            parts.append(_text(left + 4, y + 15, note, "start", "dim"))
            continue
        width = span * min(max(g["value"], 0.0), 1.0)
        parts.append(
            f'<rect x="{left}" y="{y + 2}" width="{width:.1f}" height="{row - 8}" class="bar"/>'
        )
        if not math.isnan(g["low"]):
            x1, x2 = left + span * max(g["low"], 0), left + span * min(g["high"], 1)
            parts.append(
                f'<line x1="{x1:.1f}" x2="{x2:.1f}" y1="{y + 11}" y2="{y + 11}" class="whisker"/>'
            )
        note = f"{g['value']:.0%}  n = {g['n']:,.0f}"
        parts.append(_text(left + span + 10, y + 15, note, "start"))
    return "".join(parts) + "</svg>"


def path(points: list[dict[str, Any]]) -> str:
    """The trade-off: change of utility against shortfall, every candidate of the run."""
    own = [p for p in points if p["segment"] != "warmup"]
    xs = [p["delta_m"] for p in own]
    ys = [p["shortfall"] for p in own]
    left, bottom, width, height = 60, 300, 560, 340
    x0, x1 = min(xs) - 0.002, max([*xs, 0.0]) + 0.002
    y0, y1 = min(ys) * 0.92, max(ys) * 1.05 + 1e-6

    def px(v: float) -> float:
        return left + (width - left - 20) * (v - x0) / (x1 - x0)

    def py(v: float) -> float:
        return bottom - (bottom - 20) * (v - y0) / (y1 - y0)

    parts = [_open(width, height, "Change of utility and shortfall of every candidate")]
    for tick in _ticks_between(x0, x1):
        parts.append(
            f'<line x1="{px(tick):.1f}" x2="{px(tick):.1f}" y1="20" y2="{bottom}" class="grid"/>'
        )
        parts.append(_text(px(tick), bottom + 18, f"{tick:+.1%}", "middle", "dim"))
    for tick in _ticks_between(y0, y1):
        parts.append(
            f'<line x1="{left}" x2="{width - 20}" y1="{py(tick):.1f}" y2="{py(tick):.1f}" '
            'class="grid"/>'
        )
        parts.append(_text(left - 8, py(tick) + 4, f"{tick:.3f}", "end", "dim"))
    line = [p for p in own if p["segment"] == "path"]
    if line:
        d = " ".join(f"{px(p['delta_m']):.1f},{py(p['shortfall']):.1f}" for p in line)
        parts.append(f'<polyline points="{d}" class="trace"/>')
    for p in own:
        x, y = px(p["delta_m"]), py(p["shortfall"])
        tip = escape(
            f"epoch {p['epoch']}, λ {p['strength']:.2f}: utility {p['delta_m']:+.1%}, shortfall "
            f"{p['shortfall']:.3f}, gap {p['gap']:.3f}"
        )
        kind = "hollow" if p["segment"] == "plain" else "dot"
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" class="{kind}"><title>{tip}</title></circle>'
        )
        if p.get("chosen"):
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="10" class="ring"/>')
            parts.append(_text(x + 14, y + 4, "chosen", "start"))
    parts.append(_text((left + width) / 2, bottom + 36, "change of utility", "middle"))
    parts.append(_text(left, 14, "shortfall of the worst-served groups", "start"))
    return "".join(parts) + "</svg>"


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _ticks(top: float) -> list[float]:
    return [t for t in _ticks_between(0.0, top) if t >= 0]


def _ticks_between(low: float, high: float) -> list[float]:
    raw = (high - low) / 5
    base = 10 ** math.floor(math.log10(raw)) if raw > 0 else 1.0
    step = next(base * m for m in (1, 2, 5, 10) if base * m >= raw)
    first = math.ceil(low / step)
    return [round(i * step, 10) for i in range(first, math.floor(high / step) + 1)]
