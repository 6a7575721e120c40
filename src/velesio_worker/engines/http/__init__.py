"""HTTP to an engine, and files from anywhere: the one room that knows httpx, so that its successor is a change here."""

from velesio_worker.engines.http.answers import ANSWER_BYTES as ANSWER_BYTES
from velesio_worker.engines.http.answers import LIST_BYTES as LIST_BYTES
from velesio_worker.engines.http.answers import SMALL_BYTES as SMALL_BYTES
from velesio_worker.engines.http.answers import AnswerTooLargeError as AnswerTooLargeError
from velesio_worker.engines.http.answers import ConnectionLostError as ConnectionLostError
from velesio_worker.engines.http.answers import EngineResponse as EngineResponse
from velesio_worker.engines.http.answers import NotReachedError as NotReachedError
from velesio_worker.engines.http.answers import UnreadableAnswerError as UnreadableAnswerError
from velesio_worker.engines.http.answers import UnusableURLError as UnusableURLError
from velesio_worker.engines.http.client import EngineHTTP as EngineHTTP
from velesio_worker.engines.http.download import DownloadResponse as DownloadResponse
from velesio_worker.engines.http.download import fetch as fetch
