"""What prompts show and where, as processors of transformers and engines take it."""

from typing import Any

from torch import Tensor

from faceaffect.models.vlm.chat import Chat, Prompt

_FPS = 8.0
"""Frames per second that clips are said to have; their frames are spread over them already."""


def pictures(prompt: Prompt, chat: Chat) -> list[Tensor]:
    """Return the pictures of a prompt, each (3, H, W), in its order."""
    return [frame for clip in prompt.media if not is_video(clip, chat) for frame in clip]


def videos(prompt: Prompt, chat: Chat) -> list[Tensor]:
    """Return the videos of a prompt, each (T, 3, H, W), in its order."""
    return [clip for clip in prompt.media if is_video(clip, chat)]


def is_video(clip: Tensor, chat: Chat) -> bool:
    """Return whether a clip is shown as a video, not as pictures."""
    return chat.videos and len(clip) > 1


def metadata(clip: Tensor) -> dict[str, Any]:
    """Return what transformers wants to know of a video, all of whose frames are shown."""
    count = len(clip)
    return {"fps": _FPS, "total_num_frames": count, "frames_indices": list(range(count)),
            "duration": count / _FPS}  # fmt: skip


def media_ids(config: Any) -> list[int]:
    """Return the ids of the tokens that stand for what is seen."""
    found = []
    for kind in ("image", "video"):
        names = (f"{kind}_token_id", f"{kind}_token_index")
        known = [getattr(config, n) for n in names if isinstance(getattr(config, n, None), int)]
        found += known[:1]
    return found


def pad(inputs: dict[str, Tensor], kind: str, *, ahead: bool) -> None:
    """Move all padding ahead of the text, or behind it, where a Q-Former's has to be.

    InstructBLIP's processor leaves it between pictures and text, where it would count as distance.
    """
    mask = inputs.get(f"{kind}attention_mask")
    if mask is not None:
        order = mask.sort(dim=1, descending=not ahead, stable=True).indices
        for name in ("input_ids", "attention_mask"):
            inputs[kind + name] = inputs[kind + name].gather(1, order)
