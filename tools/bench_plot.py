"""Draws what tools/bench-transports measured: goodput as bars, by nodes, loss and pace, as plain SVG
that suits light and dark pages."""

import statistics
from html import escape

COLOURS = {"flashover": "#e4572e", "udpcast": "#4f86c6", "uftp": "#4caf82", "uftp-aes": "#a78bda"}
OTHER = "#999999"
BAR, GAP, PANEL_GAP, HEIGHT, MARGIN = 28, 20, 28, 190, 48
STYLE = """
text { font: 12px system-ui, sans-serif; fill: #57606a } .small { font-size: 10px } .axis { stroke: #8c959f; stroke-opacity: 0.5 }
.title { font-size: 14px; font-weight: 600 } .middle { text-anchor: middle } .end { text-anchor: end }
@media (prefers-color-scheme: dark) { text { fill: #c9d1d9 } }
"""


def svg(runs):
    """One row of panels per size and pace, one panel per loss, one group of bars per number of
    nodes; a bar is the median of the runs that succeeded, with their count where some failed."""
    tools = list(dict.fromkeys(run["tool"] for run in runs))
    rows = sorted({(run["size"], run["rate_mbit"]) for run in runs})
    losses = sorted({run["loss"] for run in runs})
    nodes = sorted({run["nodes"] for run in runs})
    panel = len(nodes) * (len(tools) * BAR + GAP) + GAP
    width = max(420, MARGIN + len(losses) * (panel + PANEL_GAP))
    parts = legend(tools)
    for line, (size, rate) in enumerate(rows):
        top = 40 + line * (HEIGHT + 96)
        of_row = [run for run in runs if (run["size"], run["rate_mbit"]) == (size, rate)]
        highest = scale(max((run["gbit_per_s"] for run in of_row if run["ok"]), default=1))
        pace = f"at {rate} Mbit/s" if rate else "as fast as it goes"
        parts.append(text(MARGIN, top + 14, f"{size >> 20} MiB, {pace}: Gbit/s", "title"))
        base = top + 34 + HEIGHT
        parts += axis(base, width - PANEL_GAP, highest)
        for column, loss in enumerate(losses):
            left = MARGIN + column * (panel + PANEL_GAP)
            parts.append(text(left + panel / 2, base + 36, f"{loss:g} % loss", "middle"))
            for place, count in enumerate(nodes):
                group = left + GAP + place * (len(tools) * BAR + GAP)
                name = f"{count} node" + ("s" if count > 1 else "")
                parts.append(text(group + len(tools) * BAR / 2, base + 18, name, "small middle"))
                for index, tool in enumerate(tools):
                    cell = [run for run in of_row if (run["loss"], run["nodes"], run["tool"])
                            == (loss, count, tool)]
                    parts += bar(group + index * BAR, base, cell, tool, highest)
    height = 40 + len(rows) * (HEIGHT + 96)
    head = (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" role="img">')
    title = "<title>Goodput to the last of N receivers, by loss</title>"
    return "\n".join([head, title, f"<style>{STYLE}</style>", *parts, "</svg>"]) + "\n"


def bar(left, base, runs, tool, highest):
    if not runs:
        return []
    good = [run["gbit_per_s"] for run in runs if run["ok"]]
    centre = left + BAR / 2
    if not good:
        return [text(centre, base - 4, "✗", "middle")]
    value = statistics.median(good)
    tall = value / highest * HEIGHT
    parts = [
        f'<rect x="{left + 1}" y="{base - tall:.1f}" width="{BAR - 2}" height="{tall:.1f}" '
        f'rx="2" fill="{COLOURS.get(tool, OTHER)}"/>',
        text(centre, base - tall - 4, f"{value:.2g}", "small middle"),
    ]
    if len(good) < len(runs):
        parts.append(text(centre, base - tall - 16, f"{len(good)}/{len(runs)}", "small middle"))
    return parts


def axis(base, right, highest):
    parts = []
    for step in range(5):
        y = base - HEIGHT * step / 4
        parts.append(f'<line class="axis" x1="{MARGIN}" y1="{y}" x2="{right}" y2="{y}"/>')
        parts.append(text(MARGIN - 6, y + 4, f"{highest * step / 4:g}", "small end"))
    return parts


def legend(tools):
    parts, left = [], MARGIN
    for tool in tools:
        parts.append(f'<rect x="{left}" y="12" width="12" height="12" rx="2" '
                     f'fill="{COLOURS.get(tool, OTHER)}"/>')
        parts.append(text(left + 18, 22, tool))
        left += 34 + 8 * len(tool)
    return parts


def text(x, y, words, style=""):
    return f'<text x="{x:g}" y="{y:g}" class="{style}">{escape(words)}</text>'


def scale(value):
    """The next round number above, which four steps divide well."""
    unit = 0.001
    while True:
        for factor in (1, 1.2, 1.6, 2, 3, 4, 6, 8):
            if unit * factor >= value:
                return unit * factor
        unit *= 10
