"""A trained model leaves the package: ONNX, torch programs, weights, a folder for the hub."""
