import pytest
import torch

from batches import FULL, face_batch, statistics
from faceaffect import LabelSchema, create_model

SIX = LabelSchema(expressions=("happiness", "surprise", "sadness", "anger", "disgust", "fear"))


def test_parameter_count_of_the_paper() -> None:
    model = create_model("gimefive", SIX)
    assert sum(p.numel() for p in model.parameters()) == 10_478_086


@pytest.mark.parametrize("size", [48, 64, 100])
def test_input_is_grey_64_pixels_normalised(size: int) -> None:
    model = create_model("gimefive", SIX)
    image = torch.zeros(1, 3, size, size, dtype=torch.uint8)
    image[:, 0] = 100
    image[:, 1] = 200
    image[:, 2] = 50
    grey = (0.299 * 100 + 0.587 * 200 + 0.114 * 50) / 255
    out = model.normalise(image)
    assert out.shape == (1, 3, 64, 64)
    for channel, mean, std in zip(
        out[0], (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True
    ):
        torch.testing.assert_close(channel, torch.full((64, 64), (grey - mean) / std))


def test_colour_does_not_matter() -> None:
    torch.manual_seed(0)
    model = create_model("gimefive", SIX).eval()
    grey = torch.randint(0, 256, (1, 1, 64, 64), dtype=torch.uint8)
    coloured = grey.expand(-1, 3, -1, -1)
    torch.testing.assert_close(
        model.normalise(coloured), model.normalise(coloured.flip(1)), atol=1e-5, rtol=0
    )


def test_blocks_halve_the_map_and_drop_out_but_the_last() -> None:
    model = create_model("gimefive", SIX, block_dropout=0.2, hidden_dropout=0.5)
    x = torch.zeros(2, 3, 64, 64)
    sizes = [(x := block(x)).shape[1:] for block in model.blocks]
    assert sizes == [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4), (1024, 2, 2)]
    assert [block[-1].p for block in model.blocks] == [0.2, 0.2, 0.2, 0.2, 0.0]


def test_learns_a_batch_of_every_task() -> None:
    torch.manual_seed(0)
    model = create_model("gimefive", FULL, block_dropout=0.0, hidden_dropout=0.0)
    model.prepare(statistics())
    batch = face_batch(n=4)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-4)
    losses = []
    for _ in range(6):
        loss = model.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.6 * losses[0]
