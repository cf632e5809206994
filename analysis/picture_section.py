"""The section of the report that shows images, labels and predictions."""

from __future__ import annotations

from html import escape
from urllib.parse import quote

from analysis.picture_files import FOLDER, get_errors_name
from analysis.pictures import PicturedImage, PicturedNetwork, Pictures
from analysis.results import Results, Run

HINT = (
    "The first network is shown left of the line and the second right of it. Move the line with "
    "the slider, with the arrow keys, or by moving over the picture. “Mark errors” shows a "
    "prediction only where it is wrong, in the colour of the predicted class; grey is not labelled."
)


def render_pictures(results: Results) -> str:
    """Return the pictures of every run that has any, or else the command that makes them."""
    runs = [run for run in results.runs if run.pictures is not None and run.pictures.images]
    parts = ['<section id="pictures"><h2>Predictions</h2>']
    if not runs:
        command = f"python -m trainables.predictions {results.runs[0].folder}"
        parts.append(
            '<p class="absent">The run has no pictures. Write them with this command, then write '
            f"the report again: <code>{escape(command)}</code></p>"
        )
    else:
        parts.append(f'<p class="hint">{escape(HINT)}</p>')
    for run in runs:
        if len(results.runs) > 1:
            parts.append(f"<h3>{escape(run.name)}</h3>")
        parts.append(_render_run(run))
    return "\n".join([*parts, "</section>"])


def get_picture_folder(run: Run) -> str:
    """Return the folder of a run's pictures, relative to the report."""
    return f"{FOLDER}/{run.name}"


def name_network(network: PicturedNetwork) -> str:
    """Return the name of a network in the report."""
    if network.trial is not None:
        return f"Trial {network.trial}"
    return {"dense": "Uncompressed", "teacher": "Teacher"}.get(network.name, network.name)


def _render_run(run: Run) -> str:
    pictures = run.pictures
    if pictures is None:
        return ""
    base = get_picture_folder(run)
    legend = "".join(
        f'<li><span class="swatch" style="background:{entry.color}"></span>'
        f"{escape(entry.name)}</li>"
        for entry in pictures.classes
    )
    strip = "".join(
        f'<button type="button" class="thumb" data-image="{place}" '
        f'aria-pressed="{"true" if place == 0 else "false"}">'
        f'<img loading="lazy" src="{_address(base, image.image)}" alt="" '
        f'width="{_thumb_width(image)}" height="72">'
        f"<span>{escape(', '.join(image.reasons))}</span></button>"
        for place, image in enumerate(pictures.images)
    )
    images = "".join(
        _render_image(pictures, image, place, base) for place, image in enumerate(pictures.images)
    )
    size = pictures.max_bytes / 1e6
    return (
        f'<div class="pictures"><ul class="legend" aria-label="Classes">{legend}'
        '<li><span class="swatch" style="background:#000"></span>not labelled</li></ul>'
        f'<div class="strip" role="group" aria-label="Choose an image">{strip}</div>'
        f'{_render_controls(pictures)}{images}<p class="hint">{len(pictures.images)} of '
        f"{pictures.num_images} images of the split {escape(pictures.split)}, chosen after "
        f"{pictures.num_evaluated} were evaluated one by one. Pictures have at most "
        f"{pictures.max_side} pixels per side, and {size:.0f} MB in all.</p></div>"
    )


def _render_controls(pictures: Pictures) -> str:
    best = next((n.key for n in pictures.networks if n.role == "front"), pictures.networks[-1].key)
    first = next((n.key for n in pictures.networks if n.role == "student"), "label")
    names = [("image", "Image"), ("label", "Label")]
    names += [(network.key, name_network(network)) for network in pictures.networks]

    def options(selected: str) -> str:
        return "".join(
            f'<option value="{escape(key)}"{" selected" if key == selected else ""}>'
            f"{escape(label)}</option>"
            for key, label in names
        )

    return (
        '<div class="controls">'
        f'<label>Left <select data-side="left">{options(first)}</select></label>'
        f'<label>Right <select data-side="right">{options(best)}</select></label>'
        '<label>Line <input type="range" data-cut min="0" max="100" value="50"></label>'
        '<label><input type="checkbox" data-errors> Mark errors</label></div>'
    )


def _render_image(pictures: Pictures, image: PicturedImage, place: int, base: str) -> str:
    height, width = image.shown_size
    size = f'width="{width}" height="{height}"'
    cards = [
        _render_card("image", "Image", "", image.image, "", size, base, f"Image {image.name}"),
        _render_card(
            "label", "Label", "", image.label, "", size, base, f"Label of image {image.name}"
        ),
    ]
    for network in pictures.networks:
        name = name_network(network)
        file = image.predictions[network.key]
        known = network.key in image.miou
        remark = (
            f"mIoU {100 * image.miou[network.key]:.1f} %, "
            f"{100 * image.wrong[network.key]:.1f} % wrong"
            if known
            else ""
        )
        alt = f"Prediction of {name} for image {image.name}" + (f": {remark}" if known else "")
        errors = get_errors_name(file)
        cards.append(_render_card(network.key, name, remark, file, errors, size, base, alt))
    reasons = escape(", ".join(image.reasons))
    shown = " shown" if place == 0 else ""
    return (
        f'<div class="picture{shown}" data-image="{place}"><h3>{escape(image.name)} '
        f'<small>{reasons}</small></h3><div class="compare" style="--ratio:{width}/{height}">'
        '</div><div class="cards">' + "".join(cards) + "</div></div>"
    )


def _render_card(
    key: str, name: str, remark: str, file: str, errors: str, size: str, base: str, alt: str
) -> str:
    cover = (
        f'<img class="errors" loading="lazy" data-src="{_address(base, errors)}" alt="" {size}>'
        if errors
        else ""
    )
    small = f"<small>{escape(remark)}</small>" if remark else ""
    return (
        f'<figure data-key="{escape(key)}"><div class="stack"><img loading="lazy" '
        f'src="{_address(base, file)}" alt="{escape(alt)}" {size}>{cover}</div>'
        f"<figcaption>{escape(name)}{small}</figcaption></figure>"
    )


def _address(base: str, name: str) -> str:
    return escape(quote(f"{base}/{name}"))


def _thumb_width(image: PicturedImage) -> int:
    height, width = image.shown_size
    return round(72 * width / height)
