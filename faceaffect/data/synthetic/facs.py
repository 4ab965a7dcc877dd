"""Facial action units, expression prototypes, base rates: the numbers behind the synthetic labels.

AU names and prototypes follow FACS and EMFACS (Ekman and Friesen). The BP4D and DISFA rates of the
AUs which those sets annotate are measured on their label files; every other number here is ours.
"""

from collections.abc import Mapping
from typing import Final

AUS: Final = (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 23, 24, 25, 26, 43)
"""Every action unit that the renderer draws, in the column order of its intensity arrays."""

COLUMN: Final = {au: column for column, au in enumerate(AUS)}

BP4D_AUS: Final = (1, 2, 4, 6, 7, 10, 12, 14, 15, 17, 23, 24)

EXPRESSIONS: Final = (
    "neutral",
    "happiness",
    "sadness",
    "surprise",
    "fear",
    "disgust",
    "anger",
    "contempt",
)

# Share of samples where each AU is positive (intensity >= 2). The AUs that BP4D or DISFA annotate
# carry the rate of the published label files (146,847 and 130,814 frames); the others are ours.
RATE_PRESETS: Final[Mapping[str, Mapping[int, float]]] = {
    "bp4d": {1: 0.211, 2: 0.171, 4: 0.203, 6: 0.461, 7: 0.549, 10: 0.594, 12: 0.562, 14: 0.466,
             15: 0.169, 17: 0.343, 23: 0.165, 24: 0.151, 5: 0.10, 9: 0.10, 20: 0.09, 25: 0.38,
             26: 0.20, 43: 0.03},
    "disfa": {1: 0.050, 2: 0.043, 4: 0.152, 6: 0.079, 9: 0.042, 12: 0.129, 25: 0.277, 26: 0.088,
              5: 0.03, 7: 0.08, 10: 0.05, 14: 0.05, 15: 0.04, 17: 0.08, 20: 0.03, 23: 0.03,
              24: 0.03, 43: 0.03},
    "uniform": {au: 0.05 if au == 43 else 0.3 for au in AUS},
}  # fmt: skip

# How often each expression occurs under a preset, in the order of EXPRESSIONS. Smiling is common in
# BP4D (AU12 in 56 % of its frames) and calm faces are in DISFA, so the AU rates above would be out
# of reach under equal shares.
EXPRESSION_SHARES: Final[Mapping[str, tuple[float, ...]]] = {
    "bp4d": (0.12, 0.30, 0.12, 0.12, 0.10, 0.13, 0.11, 0.06),
    "disfa": (0.44, 0.11, 0.10, 0.08, 0.07, 0.08, 0.12, 0.04),
    "uniform": (1.0,) * len(EXPRESSIONS),
}

# Log-odds that an expression adds to an AU, on top of the AU's base rate. Around +4 is a core
# action of the EMFACS prototype, +2 a common variant, negative an action that belongs to another
# expression.
PROTOTYPES: Final[Mapping[str, Mapping[int, float]]] = {
    "neutral": {au: -3.0 for au in AUS},
    "happiness": {6: 3.5, 12: 6.0, 25: 1.6, 10: 1.0, 7: 0.8, 14: 0.3, 1: -1.2, 2: -1.0, 4: -3.0,
                  15: -3.0, 17: -1.2, 9: -2.0, 20: -2.0, 23: -2.0, 24: -2.0, 5: -1.5},
    "sadness": {1: 5.2, 4: 3.6, 15: 6.0, 17: 2.2, 12: -3.0, 6: -1.5, 2: -2.0, 25: -1.5, 26: -1.5,
                5: -2.0, 10: -1.0, 9: -2.0, 43: 1.5, 20: -0.5, 23: -1.0},
    "surprise": {1: 6.0, 2: 6.5, 5: 4.5, 25: 4.5, 26: 6.0, 4: -3.0, 6: -3.0, 7: -3.0, 10: -2.5,
                 12: -2.5, 14: -2.0, 15: -2.0, 17: -3.0, 23: -3.0, 24: -4.0, 9: -2.0, 43: -3.0},
    "fear": {1: 5.5, 2: 3.6, 4: 5.5, 5: 5.0, 20: 7.0, 25: 2.5, 26: 0.8, 12: -3.0, 6: -2.0, 7: 1.0,
             10: -1.5, 15: -0.5, 17: -2.0, 24: -3.0, 23: -2.0, 9: -1.5, 43: -3.0},
    "disgust": {9: 7.5, 10: 4.5, 4: 1.0, 7: 1.5, 6: 0.5, 17: 1.5, 12: -3.0, 1: -2.5, 2: -2.5,
                5: -3.0, 15: 1.0, 25: 0.3, 26: -1.5},
    "anger": {4: 6.5, 5: 1.8, 7: 2.5, 23: 3.8, 24: 3.0, 17: 1.5, 12: -3.0, 6: -2.0, 1: -2.5,
              2: -2.0, 10: -0.3, 15: -0.5, 9: -1.0, 25: -1.0, 26: -2.0, 43: -3.0},
    "contempt": {14: 5.5, 12: -1.0, 6: -2.0, 1: -1.5, 2: -0.5, 4: -1.5, 15: -2.0, 25: -3.0,
                 26: -3.0, 5: -2.0, 9: -3.0, 10: -1.5, 20: -2.0},
}  # fmt: skip

# Residual correlation of AUs given the expression (ours): neighbours under one muscle
# group go together.
COOCCURRENCE: Final[Mapping[tuple[int, int], float]] = {
    (1, 2): 0.65, (6, 12): 0.45, (6, 7): 0.45, (10, 12): 0.3, (7, 10): 0.25, (6, 10): 0.25,
    (12, 14): 0.15, (15, 17): 0.4, (23, 24): 0.35, (17, 24): 0.3, (17, 23): 0.2, (25, 26): 0.6,
    (12, 25): 0.2, (4, 7): 0.25, (4, 9): 0.25, (9, 10): 0.3, (12, 15): -0.3, (24, 25): -0.6,
    (23, 25): -0.35, (24, 26): -0.45, (20, 25): 0.2, (5, 7): -0.3, (5, 43): -0.7, (7, 43): 0.1,
    (17, 25): -0.35, (14, 24): 0.15,
}  # fmt: skip

# Pairs that one face cannot show at once: where both are drawn the second is taken back to 0.
EXCLUSIVE: Final = ((43, 5), (25, 24))

# Valence and arousal of each expression at full strength, and what one AU at intensity 5 adds (both
# ours, after the usual place of the categories on Russell's circumplex).
EXPRESSION_VA: Final[Mapping[str, tuple[float, float]]] = {
    "neutral": (0.0, -0.05),
    "happiness": (0.75, 0.35),
    "sadness": (-0.65, -0.35),
    "surprise": (0.15, 0.70),
    "fear": (-0.60, 0.70),
    "disgust": (-0.65, 0.25),
    "anger": (-0.60, 0.60),
    "contempt": (-0.45, 0.10),
}
AU_VA: Final[Mapping[int, tuple[float, float]]] = {
    4: (-0.15, 0.05), 5: (0.0, 0.25), 6: (0.15, 0.05), 9: (-0.15, 0.05), 12: (0.30, 0.05),
    15: (-0.20, -0.05), 20: (-0.10, 0.10), 24: (-0.10, 0.05), 26: (0.0, 0.25), 25: (0.0, 0.05),
    43: (0.0, -0.35),
}  # fmt: skip
