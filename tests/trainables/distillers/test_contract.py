"""What every distiller holds, alone and in combination."""

from dataclasses import fields, replace

import pytest
import torch
from torch import nn

from models import create_model
from models.pruning import prune
from trainables.distillers import DISTILLERS, build_loss, check_combination
from trainables.settings import declare

COMBINATIONS = ("kd+cwd", "dkd+skd", "kd+adaptive_channel+multi_level")
ALL = (*DISTILLERS, *COMBINATIONS)
# A perfect student is still inconsistent from frame to frame where its teacher is.
NOT_ZERO = ("consistency", "multi_level")


@pytest.mark.parametrize("name", DISTILLERS)
def test_a_distiller_declares_what_the_search_must_know(name):
    distiller = DISTILLERS[name]
    assert distiller.name == name
    assert set(declare(distiller.Settings)) == {f.name for f in fields(distiller.Settings)}
    if distiller.needs_features or distiller.needs_pairs:
        assert distiller.needs_teacher


@pytest.mark.parametrize("name", ALL)
def test_the_students_gradient_is_that_of_the_loss(name, networks, batch, parse, teach):
    student, teacher = networks
    images, target = batch
    loss, lesson = teach(parse(name), student, teacher, images, target)
    found = [lesson.student_logits, *lesson.student_features.values()]
    leaves = [values.detach().requires_grad_() for values in found]
    features = dict(zip(lesson.student_features, leaves[1:], strict=True))
    total = loss.compute_total(lesson._replace(student_logits=leaves[0], student_features=features))
    assert total.ndim == 0
    gradients = torch.autograd.grad(total, leaves, allow_unused=True)
    # Against a difference of the loss itself, in one random direction.
    torch.manual_seed(2)
    directions = [torch.randn_like(leaf) for leaf in leaves]
    slope = sum((g * d).sum() for g, d in zip(gradients, directions, strict=True) if g is not None)

    def shifted(size):
        logits, *maps = (x.detach() + size * d for x, d in zip(leaves, directions, strict=True))
        features = dict(zip(lesson.student_features, maps, strict=True))
        return loss.compute_total(lesson._replace(student_logits=logits, student_features=features))

    if name == "dkd_share":  # its factor is held while the gradient is taken
        return
    step = 1e-6
    numeric = (shifted(step) - shifted(-step)) / (2 * step)
    torch.testing.assert_close(slope, numeric, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", ALL)
def test_ignored_pixels_have_no_influence(name, networks, batch, parse, teach):
    student, teacher = networks
    loss, lesson = teach(parse(name), student, teacher, *batch)
    upper = {}
    for key in ("student_logits", "teacher_logits"):
        upper[key] = _disturb_upper_half(getattr(lesson, key))
    for key in ("student_features", "teacher_features"):
        upper[key] = {k: _disturb_upper_half(v) for k, v in getattr(lesson, key).items()}
    torch.testing.assert_close(
        loss.compute_total(lesson), loss.compute_total(lesson._replace(**upper))
    )


def _disturb_upper_half(values):
    values = values.detach().clone()
    half = values.shape[-2] // 2
    values[..., :half, :] = 100 * torch.randn_like(values[..., :half, :])
    return values


@pytest.mark.parametrize("name", ALL)
def test_a_batch_without_a_label_has_no_loss(name, networks, batch, parse, teach):
    student, teacher = networks
    images, target = batch
    loss, lesson = teach(parse(name), student, teacher, images, torch.full_like(target, 255))
    total = loss.compute_total(lesson)
    assert total.item() == 0
    total.backward()
    assert all(torch.isfinite(p.grad).all() for p in student.parameters() if p.grad is not None)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
@pytest.mark.parametrize("temperature", [0.5, 20.0])
@pytest.mark.parametrize("name", ALL)
def test_loss_and_gradient_are_finite(name, temperature, scale, networks, batch, parse, teach):
    student, teacher = (network.float() for network in networks)
    images, target = batch[0].float(), batch[1]
    methods = {
        part: replace(settings, temperature=temperature)
        if "temperature" in {f.name for f in fields(settings)}
        else settings
        for part, settings in parse(name).items()
    }
    loss, lesson = teach(methods, student, teacher, images, target)
    leaves = [
        (scale * x / x.abs().max()).detach().requires_grad_()
        for x in (lesson.student_logits, *lesson.student_features.values())
    ]
    lesson = lesson._replace(
        student_logits=leaves[0],
        teacher_logits=-scale * lesson.teacher_logits / lesson.teacher_logits.abs().max(),
        student_features=dict(zip(lesson.student_features, leaves[1:], strict=True)),
        teacher_features={k: scale * v for k, v in lesson.teacher_features.items()},
    )
    total = loss.compute_total(lesson)
    assert torch.isfinite(total)
    total.backward()
    for leaf in leaves:
        assert leaf.grad is None or torch.isfinite(leaf.grad).all()


@pytest.mark.parametrize("name", [name for name in DISTILLERS if name not in NOT_ZERO])
def test_a_student_equal_to_its_teacher_learns_from_the_labels_alone(
    name, batch, parse, teach, tiny
):
    torch.manual_seed(0)
    network = tiny().double().eval()
    loss, lesson = teach(parse(name), network, network, *batch)
    assert loss(lesson).item() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("name", ALL)
def test_bfloat16_in_float32_out(name, networks, batch, parse, teach):
    student, teacher = (network.float() for network in networks)
    loss, lesson = teach(parse(name), student, teacher, batch[0].float(), batch[1])

    def half(lesson):
        return lesson._replace(
            student_logits=lesson.student_logits.bfloat16(),
            teacher_logits=lesson.teacher_logits.bfloat16(),
            student_features={k: v.bfloat16() for k, v in lesson.student_features.items()},
            teacher_features={k: v.bfloat16() for k, v in lesson.teacher_features.items()},
        )

    rounded = loss.compute_total(half(lesson))
    assert rounded.dtype == torch.float32
    exact = loss.compute_total(lesson)
    assert rounded.item() == pytest.approx(exact.item(), rel=0.05)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(loss.compute_total(lesson), exact)


@pytest.mark.parametrize("name", ["adaptive_channel", "cwd", "skd", "multi_level"])
@pytest.mark.parametrize("other", ["espnet", "fast_scnn"])
def test_a_pruned_student_learns_from_another_architecture(name, other, parse, teach):
    torch.manual_seed(0)
    student = create_model("dual_branch", 5, backbone="tu-resnet18", width=0.125)
    for module in student.modules():
        if isinstance(module, nn.BatchNorm2d):  # timm begins its residual branches at 0
            nn.init.ones_(module.weight)
    prune(student, torch.zeros(1, 3, 64, 96), 0.3)
    teacher = create_model(other, 5).eval()
    images, target = torch.randn(2, 3, 64, 96), torch.randint(0, 5, (2, 64, 96))
    loss, lesson = teach(parse(name), student, teacher, images, target)
    loss.compute_total(lesson).backward()
    for parameter in loss.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in teacher.parameters())
    touched = [bool(p.grad.abs().sum() > 0) for p in student.parameters() if p.grad is not None]
    assert sum(touched) > 0.9 * len(touched)


def test_the_labels_count_once(networks, batch, parse, teach):
    student, teacher = networks
    kd = DISTILLERS["kd"].Settings(alpha=0.25)
    both, lesson = teach({"kd": kd, "skd": DISTILLERS["skd"].Settings()}, student, teacher, *batch)
    assert both.label_weight == 0.75
    alone, _ = teach({"kd": kd}, student, teacher, *batch)
    skd, _ = teach(parse("skd"), student, teacher, *batch)
    assert skd.label_weight is None
    expected = alone.compute_total(lesson) + skd(lesson)
    torch.testing.assert_close(both.compute_total(lesson), expected)


@pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
def test_the_labels_keep_their_share(share, networks, batch, parse, teach):
    student, teacher = networks
    methods = {"dkd_share": DISTILLERS["dkd_share"].Settings(label_share=share)}
    loss, lesson = teach(methods, student, teacher, *batch)
    labels, _ = teach(parse("none"), student, teacher, *batch)
    part = labels.compute_total(lesson) / loss.compute_total(lesson)
    assert part.item() == pytest.approx(share)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("kd", {"temperature": 0.0}, "temperature must be greater than 0, got 0.0"),
        ("kd", {"alpha": 1.5}, "alpha must be in 0..1 for kd, got 1.5"),
        ("dkd", {"beta": -1.0}, "beta must be at least 0, got -1.0"),
        ("dkd", {"eta": float("nan")}, "eta must be at least 0, got nan"),
        ("dkd_share", {"label_share": 0.0}, "label_share must lie within 0..1"),
        ("cwd", {"weight": 0.0, "feature_weight": 0.0}, "must be above 0"),
        ("skd", {"max_side": 0}, "max_side must be at least 1, got 0"),
        ("skd", {"layers": "first"}, "must name equally many layers"),
        ("low_level", {"layers": "first"}, "must name equally many layers"),
        ("adaptive_channel", {"feature_weight": -1.0}, "feature_weight must be at least 0"),
        ("multi_level", {"high_weight": float("inf")}, "high_weight must be at least 0, got inf"),
    ],
)
def test_bad_settings_are_named(name, change, message):
    with pytest.raises(ValueError, match=message):
        DISTILLERS[name].Settings(**change)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("none", "kd"), "means that there is no teacher"),
        (("kd", "cwd", "dkd"), "kd and dkd both set"),
        (("skd", "skd"), "contains skd twice"),
        (("adaptive_channel", "cwd_logits"), "contains cwd_logits twice; leave one of them out"),
    ],
)
def test_methods_that_do_not_go_together_are_refused(names, message):
    with pytest.raises(ValueError, match=message):
        check_combination(names)


def test_a_method_on_features_says_that_it_needs_the_teacher(networks, parse):
    with pytest.raises(ValueError, match="distiller skd reads maps inside the teacher"):
        build_loss(parse("skd"), student=networks[0], teacher=None, image_size=(32, 48))


@pytest.mark.parametrize("name", ["high_level", "consistency"])
def test_frame_pairs_need_an_even_batch(name, networks, batch, parse, teach):
    loss, lesson = teach(parse(name), *networks, batch[0][:3], batch[1][:3])
    with pytest.raises(ValueError, match="even number of images in a batch, got 3"):
        loss(lesson)


NAMED = [name for name, method in DISTILLERS.items() if hasattr(method.Settings, "layers")]


@pytest.mark.parametrize("name", NAMED)
def test_layers_can_be_named(name, networks):
    settings = DISTILLERS[name].Settings(layers="second,third", teacher_layers="second.0,third.0")
    loss = build_loss(
        {name: settings}, student=networks[0], teacher=networks[1], image_size=(32, 48)
    )
    assert [layer.name for layer in loss.student_layers] == ["second", "third"]
    assert [layer.name for layer in loss.teacher_layers] == ["second.0", "third.0"]


def test_a_part_of_weight_zero_is_not_built(networks):
    settings = DISTILLERS["cwd"].Settings(feature_weight=0.0)
    loss = build_loss(
        {"cwd": settings}, student=networks[0], teacher=networks[1], image_size=(32, 48)
    )
    assert not loss.student_layers
    assert not list(loss.parameters())
