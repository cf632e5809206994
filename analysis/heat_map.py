"""Renders the IoU of each class as a table with coloured cells."""

from __future__ import annotations

from html import escape

from analysis.class_iou import ClassIoUInfo

STRONGEST = 0.2
"""Change of IoU at which the colour reaches its full strength."""
LOSS, GAIN = (179, 64, 26), (29, 95, 167)
MOST_OPAQUE = 0.55
"""Opacity of the full colour; it keeps the text readable on light and dark pages."""


def render_heat_map(info: ClassIoUInfo) -> str:
    """Return a table with a row per class and a column per network; gains are blue, losses red."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in info.networks)
    with_reference = "".join(
        f'<th scope="col">{escape(_name_reference(info, name))} (%)</th>'
        for name in info.references
    )
    body = "".join(_render_row(info, name) for name in info.classes)
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="IoU by class">'
        '<table class="heat"><caption class="hidden">IoU of each class, by network</caption>'
        f'<thead><tr><th scope="col" class="text">Class</th>{with_reference}{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _render_row(info: ClassIoUInfo, name: str) -> str:
    cells = [f"<td>{_percent(reference.get(name))}</td>" for reference in info.references.values()]
    for network in range(len(info.networks)):
        value, change = info.values[network].get(name), info.get_change(network, name)
        if change is None:
            cells.append(f"<td>{_percent(value)}</td>")
        else:
            cells.append(
                f'<td style="background:{_color(change)}" title="{_percent(value)} %">'
                f"{100 * change:+.1f}</td>"
            )
    return f'<tr><th scope="row" class="text">{escape(name)}</th>{"".join(cells)}</tr>\n'


def _name_reference(info: ClassIoUInfo, name: str) -> str:
    return "Uncompressed" if len(info.references) == 1 else f"Uncompressed {name}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _color(change: float) -> str:
    red, green, blue = GAIN if change > 0 else LOSS
    opacity = MOST_OPAQUE * min(1.0, abs(change) / STRONGEST)
    return f"rgba({red},{green},{blue},{opacity:.2f})"
