"""A double of AUTOMATIC1111's Stable Diffusion WebUI: its API with pictures that cost nothing.

In a test's process ``with WebUIDouble(Setup(...)) as double``; as a program ``python -m tests.doubles.webui --port N``.
"""

from tests.doubles.webui.double import WebUIDouble
from tests.doubles.webui.pictures import sample_image
from tests.doubles.webui.setup import MISSING, Setup

__all__ = ["MISSING", "Setup", "WebUIDouble", "sample_image"]
