import pytest
import torch
from torch import nn

from trainables.distillers import DISTILLERS, FeatureTaps, Lesson, build_loss


class Tiny(nn.Module):
    """Strides 2, 4 and 8, a decoder at 4, classes at full size; of any widths and norm."""

    def __init__(self, widths=(4, 6, 8), num_classes=5, norm=nn.BatchNorm2d):
        super().__init__()
        a, b, c = widths
        self.first = nn.Sequential(nn.Conv2d(3, a, 3, 2, 1), norm(a), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), norm(b), nn.ReLU())
        self.third = nn.Sequential(nn.Conv2d(b, c, 3, 2, 1), norm(c), nn.ReLU())
        self.decoder = nn.Sequential(nn.ConvTranspose2d(c, b, 2, 2), nn.ReLU())
        self.classes = nn.Conv2d(b, num_classes, 1)

    def forward(self, images):
        second = self.second(self.first(images))
        logits = self.classes(second + self.decoder(self.third(second)))
        return nn.functional.interpolate(logits, scale_factor=4, mode="bilinear")


@pytest.fixture
def networks():
    torch.manual_seed(0)
    wide = Tiny((6, 10, 12), norm=lambda channels: nn.GroupNorm(2, channels))
    return Tiny().double(), wide.double().eval()


@pytest.fixture(name="parse")
def make_parse():
    return _parse


@pytest.fixture(name="teach")
def make_teach():
    return _teach


@pytest.fixture(name="tiny")
def make_tiny():
    return Tiny


def _parse(name):
    return {part: DISTILLERS[part].Settings() for part in name.split("+")}


def _teach(methods, student, teacher, images, target, class_weights=None):
    """The loss module, and the lesson of one forward pass."""
    loss = build_loss(methods, student=student, teacher=teacher, image_size=images.shape[-2:])
    loss = loss.to(images.dtype)
    with (
        FeatureTaps(student, loss.student_layers) as own,
        FeatureTaps(teacher, loss.teacher_layers) as other,
    ):
        logits = student(images)
        with torch.no_grad():
            taught = teacher(images)
        lesson = Lesson(logits, taught, target, class_weights, own.take(), other.take())
    return loss, lesson


@pytest.fixture
def batch():
    torch.manual_seed(1)
    images = torch.randn(4, 3, 32, 48, dtype=torch.float64)
    target = torch.randint(0, 5, (4, 32, 48))
    target[:, :16] = 255
    return images, target
