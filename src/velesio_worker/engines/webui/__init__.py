"""The Stable Diffusion WebUI's API (``/sdapi/v1``) as an engine of image jobs.

AUTOMATIC1111, Forge, SD.Next and stable-diffusion.cpp's ``sd-server`` speak it, each a different part of it: what a
server can do is asked once (:mod:`velesio_worker.engines.webui.api`), never taken from its name.
"""
