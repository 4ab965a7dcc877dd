"""EMO-LLaMA: an instruction-tuned multimodal language model for facial affect.

After arXiv 2408.11424. The base, LLaMA-VID, is known from its code; the internals of Face Info
Mining, the prompt of face attributes and most settings are ours, since none are published.
"""

from faceaffect.models.emo_llama.aggregator import ClueAggregator
from faceaffect.models.emo_llama.mining import FaceInfoMining
from faceaffect.models.emo_llama.module import EmoLlama
from faceaffect.models.emo_llama.priors import FacePrior, FacePriorNet

__all__ = ["ClueAggregator", "EmoLlama", "FaceInfoMining", "FacePrior", "FacePriorNet"]
