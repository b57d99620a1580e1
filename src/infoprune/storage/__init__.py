"""Networks in files: checkpoints, ONNX and torch.export."""
