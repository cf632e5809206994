import importlib

import pytest
import torch

from trainables.losses import decoupled_kd_loss


@pytest.fixture
def distill_losses():
    return importlib.import_module("distill_losses")


def draw(dtype):
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 2, 5, 6, 7, generator=generator, dtype=dtype).unbind()
    target = torch.randint(0, 5, (2, 6, 7), generator=generator)
    return student.requires_grad_(), teacher, target


def test_the_textbook_form_computes_the_same_loss_and_gradient(distill_losses):
    student, teacher, target = draw(torch.float64)
    theirs = distill_losses.textbook_dkd(student, teacher, target)
    ours = decoupled_kd_loss(student, teacher, target, 4.0, 1.0, 8.0)
    torch.testing.assert_close(ours, theirs)
    gradients = (torch.autograd.grad(loss, student)[0] for loss in (ours, theirs))
    torch.testing.assert_close(*gradients)


def test_dkd_keeps_nothing_but_its_gradient(distill_losses):
    student, teacher, target = draw(torch.float32)

    def count_kept(compute):
        kept = []
        keep = lambda tensor: kept.append(tensor.numel()) or tensor  # noqa: E731
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            compute(student, teacher, target)
        return sum(kept)

    assert count_kept(decoupled_kd_loss) == student.numel()
    assert count_kept(distill_losses.textbook_dkd) > 5 * student.numel()


def test_every_loss_is_measured(distill_losses, capsys):
    argv = ["--shape", "2", "5", "32", "64", "--rounds", "1", "--losses", "dkd", "multi_level"]
    assert distill_losses.main(argv) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("training step", "dkd", "multi_level"))
    with pytest.raises(SystemExit):
        distill_losses.main(["--losses", "fitnets"])
