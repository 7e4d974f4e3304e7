"""Margin losses for the tests of heads, and a naive softmax over cosines."""

import torch

from landmark.loss import ArcFace, CosFace
from landmark.loss.margin import MarginLoss


class Hard(MarginLoss):
    """Override every hook: a margin by norm and label, enlarged hard negatives, a penalty."""

    def __init__(self, embedding_dim, num_classes, **options):
        super().__init__(embedding_dim, num_classes, 16.0, **options)

    def target_margin(self, cosine, labels, norms):
        return cosine - 0.05 * norms.sqrt() - 0.01 * labels

    def adjust_negatives(self, cosines, target):
        return torch.where(cosines > target, cosines * (1.2 + cosines + 0.1 * target), cosines)

    def penalty(self, norms):
        return 0.1 / norms


class Centres(MarginLoss):
    """ArcFace's margin with any number of centres for each class."""

    def __init__(self, embedding_dim, num_classes, **options):
        super().__init__(embedding_dim, num_classes, 24.0, **options)

    target_margin = ArcFace.target_margin
    margin, easy_margin = 0.3, False


def naive_losses(loss, embeddings, weight, labels, classes=None):
    """Return the loss of each photo over `classes`, computed cosine by cosine."""
    classes = range(loss.num_classes) if classes is None else classes
    losses = []
    for x, label in zip(embeddings, labels, strict=True):
        norm = x.square().sum().sqrt()
        cosines = {}
        for j in classes:
            to_centres = []
            for k in range(loss.sub_centres):
                w = weight[j * loss.sub_centres + k]
                to_centres.append((x * w).sum() / norm / w.square().sum().sqrt())
            cosines[j] = max(to_centres)
        y = int(label)
        target = loss.target_margin(cosines[y][None], label[None], norm[None])[0]
        logits = {
            j: loss.scale
            * (target if j == y else loss.adjust_negatives(c[None, None], target[None, None])[0, 0])
            for j, c in cosines.items()
        }
        denominator = sum((z - 40).exp() for z in logits.values()).log() + 40
        value = (1 - loss.label_smoothing) * (denominator - logits[y])
        for z in logits.values():
            value = value + loss.label_smoothing / len(logits) * (denominator - z)
        penalty = loss.penalty(norm[None])
        losses.append(value if penalty is None else value + penalty[0])
    return torch.stack(losses)


def random_case(make, seed, size, dim, classes, dtype=torch.float64, **options):
    """Return a loss with random centres, embeddings (size, dim) and labels."""
    generator = torch.Generator().manual_seed(seed)
    loss = make(dim, classes, **options).to(dtype)
    centres = torch.randn(loss.weight.shape, generator=generator, dtype=torch.float64)
    loss.weight.data = centres.to(dtype)
    embeddings = 3 * torch.randn(size, dim, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (size,), generator=generator)
    return loss, embeddings.to(dtype).requires_grad_(), labels


MAKERS = {"ArcFace": ArcFace, "CosFace": CosFace, "Hard": Hard, "Centres": Centres}
