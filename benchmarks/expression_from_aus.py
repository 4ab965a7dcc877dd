"""How far do action units tell the expression? A classifier on the true intensities of all 18.

    python benchmarks/expression_from_aus.py [--n 20000]

A face shows no more of its expression than its action units, so this is about what a model of
pixels could reach. People play no part: labels do not depend on who shows them.
"""

import argparse

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier

from faceaffect.data.synthetic import SyntheticFaces, facs
from faceaffect.data.synthetic.facs import RATE_PRESETS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=20_000, help="samples to train on, and to test on")
    n = parser.parse_args().n
    print("| rates | accuracy | mean recall |\n| --- | --- | --- |")
    for rates in RATE_PRESETS:
        data = [SyntheticFaces(n, seed=seed, aus=facs.AUS, rates=rates).samples for seed in (0, 1)]
        (x, y), (x_test, y_test) = ((part.au_intensity, part.expression) for part in data)
        model = HistGradientBoostingClassifier(random_state=0).fit(x, y)
        right = model.predict(x_test) == y_test
        recall = np.mean([right[y_test == k].mean() for k in np.unique(y_test)])
        print(f"| {rates} | {right.mean():.3f} | {recall:.3f} |")


if __name__ == "__main__":
    main()
