"""What a model's chat template knows, by llama-server's word; the rest it takes in silence and leaves out."""

from __future__ import annotations

from collections.abc import Mapping

from velesio_worker.wire.chat_parameters import ChatCompletionParameters
from velesio_worker.wire.errors import BadJobError

_TOOLS = "The model's chat template knows no tools"


def left_out(parameters: ChatCompletionParameters, known: Mapping[str, bool]) -> list[str]:
    """Say what of a job the model is not told.

    Args:
        parameters: the job's.
        known: ``chat_template_caps`` of llama-server's ``/props``; what it does not mention may be known.

    Returns:
        A sentence for each thing.

    Raises:
        BadJobError: a tool must be called, and the model is told of none.
    """
    sentences: list[str] = []
    if parameters.tools and known.get("supports_tools") is False and parameters.tool_choice != "none":
        if parameters.tool_choice == "required":
            raise BadJobError(f"{_TOOLS}, so none can be called: leave tool_choice out, or take another model.")
        sentences.append(f"{_TOOLS}: the model was not told of those of the job.")
    if known.get("supports_tool_calls") is False and any(message.get("tool_calls") for message in parameters.messages):
        sentences.append("The model's chat template knows no tool calls: the model was not told of earlier ones.")
    if parameters.reasoning_effort is not None and known.get("supports_reasoning_effort") is False:
        sentences.append("The model's chat template knows no reasoning_effort: it had no effect.")
    if parameters.tools and parameters.parallel_tool_calls and known.get("supports_parallel_tool_calls") is False:
        sentences.append("The model's chat template knows no parallel_tool_calls: it had no effect.")
    return sentences
