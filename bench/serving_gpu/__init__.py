"""The inference service on a GPU, beside bare onnxruntime on the same card."""
