"""Ask an exported model about a face: needs onnxruntime and opencv, neither torch nor faceaffect.

python onnx_answer.py model.onnx photo.jpg 412,300 488,301 450,352   both eyes, tip of the nose
python onnx_answer.py model.onnx crop.png                            a face that is cut out already
"""

import json
import sys

import cv2
import numpy as np
import onnxruntime


def answer(model: str, photo: str, points: list[list[float]] | None = None) -> dict[str, float]:
    """Return the answers by name, given where ``points`` of the face lie in the photo's pixels."""
    session = onnxruntime.InferenceSession(model)
    about = json.loads(session.get_modelmeta().custom_metadata_map["faceaffect"])
    face = cv2.imread(photo)[..., ::-1]  # RGB
    if points:
        here, goal = np.array(points) @ [1, 1j], np.array(about["cut"]["points"]) @ [1, 1j]
        turn = np.vdot(here - here.mean(), goal - goal.mean()) / np.var(here) / len(here)
        shift = goal.mean() - turn * here.mean()
        k = max(int(1 / abs(turn)), 1)  # a large face is averaged before it is sampled
        face = cv2.resize(face, None, fx=1 / k, fy=1 / k, interpolation=cv2.INTER_AREA)
        shift, turn = shift + turn * (k - 1) / 2 * (1 + 1j), turn * k
        move = np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])
        face = cv2.warpAffine(face, move, [about["cut"]["size"]] * 2)
    face = cv2.resize(face, [about["image_size"]] * 2, interpolation=cv2.INTER_AREA)
    answers = session.run(None, {"image": face.transpose(2, 0, 1)[None]})
    pairs = zip(about["names"].values(), answers, strict=True)
    return {n: float(v) for names, own in pairs for n, v in zip(names, own[0], strict=True)}


if __name__ == "__main__":
    places = [[float(x) for x in place.split(",")] for place in sys.argv[3:]]
    print(json.dumps(answer(sys.argv[1], sys.argv[2], places), indent=1))
