"""A visitor of the app's pages without a browser: Streamlit's own messages over a websocket.

Does what a browser does on the page Create: keeps the cookie, fills in the form, presses the
button, runs the panel of a running job anew as often as the server asks for it, and reads the
pictures that are shown.
"""

import base64
import http.client
import re
import time
from contextlib import suppress

from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.sync.client import connect

_COOKIE = re.compile(r"studio-visitor=[0-9a-f]{32}")
_DATA = re.compile(r"data:image/[a-z]+;base64,(.*)")


class Visit:
    """One visitor, from the first page on.

    Args:
        host, port: of the app.
    """

    def __init__(self, host: str, port: int):
        line = http.client.HTTPConnection(host, port, timeout=600)
        line.request("GET", "/")
        answer = line.getresponse()
        answer.read()
        self.cookie = "".join(_COOKIE.findall(answer.headers.get("set-cookie", "")))
        self.pictures: dict[str, bytes] = {}  # by what they are, all that were shown
        self.errors: list[str] = []
        self.most_mine = 0  # jobs of the queue that one run of the page called the visitor's own
        self._mine, self._query = 0, ""
        self._ids: dict[str, str] = {}  # of widgets, by label
        self._states: dict[str, str] = {}
        self._panels: dict[str, float] = {}  # when the panel of a job is run again
        self._line = connect(
            f"ws://{host}:{port}/_stcore/stream", additional_headers={"Cookie": self.cookie},
            subprotocols=["streamlit"], max_size=None, open_timeout=600,
            ping_timeout=None,
        )  # fmt: skip
        self._send()

    def make(self, prompt: str, seed: int, *, patience: float = 3600) -> bytes:
        """Types, presses Generate, and waits for the picture of that prompt and seed: its file.

        Raises:
            RuntimeError: the page showed an error, or no picture came.
        """
        end = time.monotonic() + patience
        self._wait(lambda: "Generate" in self._ids, end)
        self._states |= {self._ids["Prompt"]: prompt, self._ids["Seed"]: str(seed)}
        self._send(pressed=self._ids["Generate"])
        wanted = f'"prompt":"{prompt}"'.encode(), f'"seed":{seed}'.encode()
        found: list[bytes] = []

        def there() -> bool:
            found[:] = [p for p in self.pictures.values() if all(w in p for w in wanted)]
            return bool(found)

        self._wait(there, end)
        return found[0]

    def close(self) -> None:
        """Leaves."""
        self._line.close()

    def _wait(self, over, end: float) -> None:
        while not over():
            if self.errors or time.monotonic() > end:
                raise RuntimeError(self.errors[0] if self.errors else "nothing came in time")
            now = time.monotonic()
            for panel in [p for p, at in self._panels.items() if at <= now]:
                self._panels[panel] = now + 0.5
                self._send(panel=panel)
            with suppress(TimeoutError):
                self._take(self._line.recv(timeout=0.1))

    def _send(self, *, pressed: str = "", panel: str = "") -> None:
        message = BackMsg()
        run = message.rerun_script
        run.query_string, run.fragment_id, run.is_auto_rerun = self._query, panel, bool(panel)
        for name, value in self._states.items():
            run.widget_states.widgets.add(id=name, string_value=value)
        if pressed:
            run.widget_states.widgets.add(id=pressed, trigger_value=True)
        self._line.send(message.SerializeToString())

    def _take(self, data) -> None:
        message = ForwardMsg.FromString(data)
        kind = message.WhichOneof("type")
        if kind == "new_session":
            if not message.metadata.run.fragment_ids:  # the whole page
                self._panels.clear()
            self._mine = 0
        elif kind == "auto_rerun":
            at = time.monotonic() + message.auto_rerun.interval
            self._panels[message.auto_rerun.fragment_id] = at
        elif kind == "page_info_changed":
            self._query = message.page_info_changed.query_string
        elif kind == "delta" and message.delta.WhichOneof("type") == "new_element":
            self._see(message.delta.new_element)

    def _see(self, element) -> None:
        kind = element.WhichOneof("type")
        value = getattr(element, kind)
        if kind in ("text_area", "text_input", "button"):
            self._ids[value.label] = value.id
        elif kind == "markdown":
            self._mine += "· yours]" in value.body
            self.most_mine = max(self.most_mine, self._mine)
        elif kind == "exception" or (kind == "alert" and value.format == value.ERROR):
            text = value.message if kind == "exception" else value.body
            self.errors.append(" ".join(text.split()))
        elif kind == "imgs":
            for picture in value.imgs:
                found = _DATA.fullmatch(picture.url)
                if found:
                    self.pictures[picture.url] = base64.b64decode(found[1])
