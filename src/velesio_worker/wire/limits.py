"""How much a job may hold, in one place: ``docs/reference/limits.md`` is written from this module.

What a user may need otherwise is a setting; what is here bounds what a small job could cost.
"""

from __future__ import annotations

from typing import Final

MOST_VALUES: Final = 500_000
"""Values of JSON in a job, counted by its commas, braces and brackets outside of strings"""

LOOKED_AT: Final = 64 * 1024
"""Bytes at each end of a job that is too large, or cannot be read, in which its id is looked for"""

MOST_ATTEMPTS: Final = 10
"""`max_attempts`"""

MOST_LOST_AT_INTAKE: Final = 2
"""Workers that may be lost while they read a job that nothing is known of; then it is put aside"""

MOST_RETURNS: Final = 20
"""Workers that may be lost, within an hour, while they hold one job; then it is put aside"""

RETURNED_TTL: Final = 3600
"""Seconds for which it is known how many workers were lost with a job"""

DEAD_LETTERS_KEPT: Final = 10_000
"""Dead letters"""

DEAD_LETTERS_BYTES: Final = 256 * 1024 * 1024
"""Bytes of all dead letters together: the oldest go first"""

DEAD_LETTERS_TTL: Final = 30 * 24 * 3600
"""Seconds for which dead letters are kept after the newest"""

CONTROL_ENTRIES: Final = 1000
"""Requests to cancel that are kept in `{llama_queue}:control`"""

MOST_OFFERED_NAMES: Final = 256
"""Names of models of each kind that a worker tells in its hash; the rest is counted"""

MOST_OFFERED_BYTES: Final = 16 * 1024
"""Bytes of them"""

MOST_TOLD_JOBS: Final = 256
"""Running jobs that a worker tells in its hash"""

MOST_TOLD_BYTES: Final = 32 * 1024
"""Bytes of them"""

MOST_TOLD_GPUS: Final = 16
"""GPUs that a worker tells in its hash"""

LONGEST_ERROR: Final = 2048
"""Characters of an error"""

LONGEST_LIFE: Final = 10**9
"""Seconds of `timeout` and `unread_timeout`"""

LARGEST_NUMBER: Final = 10**6
"""A number without another limit, above and below 0"""

MOST_TEXT: Final = 8 * 1024 * 1024
"""Characters of a text: a prompt, a document, what is to be counted"""

MOST_DOCUMENTS: Final = 10_000
"""`documents`"""

MOST_PICTURE: Final = 256 * 1024 * 1024
"""Characters of a picture in base64"""

MOST_TOKENS: Final = MOST_VALUES
"""Token ids of a prompt, texts of an `input`"""

LONGEST_NAME: Final = 1024
"""Characters of a model's name, and of other names"""

LONGEST_TENANT: Final = 128
"""Characters of a `tenant`"""

LONGEST_SESSION: Final = 128
"""Characters of a `session`"""

LONGEST_TRACE: Final = 256
"""Characters of a `traceparent`"""

MOST_ASIDE: Final = 1024
"""Values of JSON in a field that changes nothing, such as `metadata`"""

MOST_MESSAGES: Final = 4096
"""Messages of a chat"""

MOST_MESSAGE_VALUES: Final = 100_000
"""Values of JSON in all messages of a chat: the parts of their contents, their tool calls"""

MOST_TEMPLATE_VALUES: Final = 1024
"""Values of JSON in `chat_template_kwargs`"""

MOST_EXTRA_VALUES: Final = 10_000
"""Values of JSON in `input_extra`, in `script_args`, in `alwayson_scripts`"""

MOST_TOOLS: Final = 512
"""Tools of a chat"""

MOST_STOPS: Final = 64
"""`stop` strings"""

MOST_STOP_CHARACTERS: Final = 4096
"""Characters of all `stop` strings together"""

MOST_BIASES: Final = 4096
"""Entries of `logit_bias`"""

LONGEST_BIAS: Final = 256
"""Characters of a text in `logit_bias`"""

MOST_LORAS: Final = 64
"""Entries of `lora`"""

MOST_INFILL_CANDIDATES: Final = 1000
"""`top_k` before the sampler `infill`, which compares each candidate with each other one"""

MOST_SAMPLERS: Final = 12
"""Entries of `samplers`, each kind once"""

MOST_BREAKERS: Final = 16
"""Entries of `dry_sequence_breakers`"""

MOST_BREAKER_CHARACTERS: Final = 64
"""Characters of all of them together"""

LARGEST_WINDOW: Final = 2**20
"""Tokens of `repeat_last_n` and `dry_penalty_last_n`: an engine takes memory for each"""

MOST_GRAMMAR: Final = 256 * 1024
"""Characters of a grammar, also with what is repeated written out as often as it may be"""

MOST_GRAMMAR_DEPTH: Final = 200
"""Levels of parentheses in a grammar"""

MOST_GRAMMAR_REPEATED: Final = 10_000
"""Repetitions of one thing in a grammar"""

MOST_GRAMMAR_RULES: Final = 5000
"""Rules of a grammar"""

MOST_GRAMMAR_WAYS: Final = 512
"""Ways in which a grammar can go on at one place, as far as they can be counted"""

MOST_GRAMMAR_SKIPS: Final = 64
"""Ways in which it can go on by leaving out what is optional"""

MOST_SCHEMA_DEPTH: Final = 100
"""Levels of a JSON schema"""

MOST_SCHEMAS: Final = 5000
"""Schemas within a JSON schema"""

MOST_SCHEMA_ITEMS: Final = 10_000
"""`minItems`, `maxItems`, `minProperties` and `maxProperties`, and all of the first two together"""

MOST_SCHEMA_LENGTH: Final = 1_000_000
"""`minLength` and `maxLength`"""

MOST_SCHEMA_CHARACTERS: Final = 1024 * 1024
"""Characters of all names and texts in a JSON schema"""

MOST_SCHEMA_VALUES: Final = 50_000
"""Values of JSON in a JSON schema, in a `response_format`, in the `tools` of a chat together"""

MOST_ENUM: Final = 10_000
"""Values of an `enum`"""

LONGEST_PATTERN: Final = 8192
"""Characters of a `pattern`"""

MOST_PATTERN_REPEATED: Final = 10_000
"""Repetitions in the `pattern`s of a schema together, those of one in another multiplied"""

MOST_MULTIPLES: Final = 100_000
"""What all `multipleOf` of a schema may come to"""

MOST_TOOL_REPEATED: Final = 10_000
"""Each of the same numbers in the parameters of a tool"""

MOST_IMAGE_PROMPT: Final = 64 * 1024
"""Characters of an image's prompt"""

MOST_NETWORKS: Final = 64
"""LoRAs and hypernetworks in an image's prompt"""

MOST_STYLES: Final = 64
"""Entries of `styles`"""

MOST_IMAGES_SENT: Final = 1024
"""Entries of `init_images`"""
