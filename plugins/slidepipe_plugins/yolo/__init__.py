"""The detector `yolo:FILE.onnx`: any model of the YOLO family that was exported to ONNX."""

from slidepipe_plugins.yolo.detector import YoloDetector

__all__ = ["YoloDetector"]
