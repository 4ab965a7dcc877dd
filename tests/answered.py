"""Random answers about faces, with their truth."""

import torch
from torch import Tensor

Labels = dict[str, Tensor]


def random_faces(n: int = 200, seed: int = 0) -> tuple[Labels, Labels]:
    """Return predictions and truths with unknown labels of every kind."""
    g = torch.Generator().manual_seed(seed)
    au = (torch.rand(n, 3, generator=g) < torch.tensor([0.5, 0.1, 0.3])).float()
    expression = torch.randint(0, 3, (n,), generator=g)  # "fear" does not occur
    va = torch.rand(n, 2, generator=g) * 2 - 1
    prediction = {
        "au": (0.4 * au + 0.6 * torch.rand(n, 3, generator=g)),
        "expression": (2 * torch.randn(n, 4, generator=g)).softmax(1),
        "va": (va + torch.randn(n, 2, generator=g)).clamp(-1, 1),
    }
    au[torch.rand(n, 3, generator=g) < 0.2] = torch.nan
    va[torch.rand(n, 2, generator=g) < 0.2] = torch.nan
    expression[torch.rand(n, generator=g) < 0.2] = -1
    return prediction, {"au": au, "expression": expression, "va": va}
