"""The bar, and the plain lines that stand in for it in a log file."""

import io

from segkit.engine.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def advance(stream: io.StringIO, every: float) -> str:
    progress = Progress(10, 7, stream=stream, every=every)
    for _ in range(3):
        progress.advance()
        progress.show(loss=1.5, rate=0.007, speed=12.3, waiting=0.25)
    progress.close()
    return stream.getvalue()


def test_a_terminal_sees_a_bar() -> None:
    text = advance(Terminal(), 30)
    assert "\r" in text
    assert "10/10" in text
    assert "loss 1.5000, lr 7.00e-03, 12.3 images/s, data wait 25%" in text


def test_a_log_gets_a_plain_line_now_and_then_and_at_the_end() -> None:
    assert advance(io.StringIO(), 30).splitlines() == [
        "step 10/10: loss 1.5000, lr 7.00e-03, 12.3 images/s, data wait 25%"
    ]
    assert len(advance(io.StringIO(), 0).splitlines()) == 3
