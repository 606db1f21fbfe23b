"""A document of one video as its parts, and back: the text, the frames, what was done between them.

What a model of documents reads is ``<bos> text <vision> frame frame ... </vision> text <eos>``; a frame is K codes and the mark
of its end, and behind it may stand words for the action taken there (data/documents_examples.py). Here ids are taken apart
into what people ask by, and prompts are put together.

Letters: T frames, K codes of a frame.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from seqrl.core.documents import DocumentPorts
from seqrl.core.errors import DataError


@dataclass(frozen=True)
class Clip:
    """A video and the texts around it.

    Args:
        codes: ``(T, K)`` int64, from 0 on.
        text: ids of what stands in front of the video. after: ids of what stands behind it.
        actions: ids of the words behind each frame but the last, T - 1 of them; empty where there are none.
    """

    codes: np.ndarray
    text: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    actions: tuple[tuple[int, ...], ...] = field(default=())

    @property
    def whole_text(self) -> tuple[int, ...]:
        """The text, on whichever side it stands."""
        return self.text or self.after


def frame_ids(ports: DocumentPorts, codes: np.ndarray, last: bool = False) -> list[int]:
    """Ids of a frame ``(K,)`` and of its end."""
    return [*(codes + ports.text).tolist(), ports.video_end if last else ports.frame_end]


def video_ids(ports: DocumentPorts, codes: np.ndarray, actions: Sequence[Sequence[int]] = (), ends: bool = True) -> list[int]:
    """Ids of a video ``(T, K)`` without the marks around it.

    Args:
        actions: as in ``Clip``; where the video goes on, also those behind its last frame. ends: whether it ends here.
    """
    ids: list[int] = []
    for t, frame in enumerate(codes):
        ids += frame_ids(ports, frame, ends and t == len(codes) - 1)
        ids += actions[t] if t < len(actions) else ()
    return ids


def document_ids(ports: DocumentPorts, clip: Clip) -> list[int]:
    """The document of a clip, from ``bos`` to ``eos``."""
    video = video_ids(ports, clip.codes, clip.actions)
    return [ports.bos, *clip.text, *ports.opens, *video, *ports.closes, *clip.after, ports.eos]


def read_document(ports: DocumentPorts, ids: Sequence[int]) -> Clip:
    """The first video of a document, and the texts in front of it and behind it.

    Raises:
        DataError: there is no whole video in it.
    """
    ids = [int(i) for i in ids]
    ids = ids[1:] if ids[:1] == [ports.bos] else ids
    ids = ids[:-1] if ids[-1:] == [ports.eos] else ids
    starts = [i for i, x in enumerate(ids) if x >= ports.text]
    if not starts:
        raise DataError("there is no video in this document")
    at = starts[0]
    front = ids[:at]
    front = front[: len(front) - len(ports.opens)] if tuple(front[len(front) - len(ports.opens) :]) == ports.opens else front
    codes, actions = [], []
    while True:
        frame, end = ids[at : at + ports.frame], ids[at + ports.frame : at + ports.frame + 1]
        if (
            not end
            or end[0] not in (ports.frame_end, ports.video_end)
            or min(frame) < ports.text
            or max(frame) >= ports.frame_end
        ):
            raise DataError(f"frame {len(codes)} of this document is not {ports.frame} codes and the mark of its end")
        codes.append([x - ports.text for x in frame])
        at += ports.frame + 1
        if end[0] == ports.video_end:
            break
        word = []
        while at < len(ids) and ids[at] < ports.text:
            word.append(ids[at])
            at += 1
        actions.append(tuple(word))
    rest = ids[at:]
    rest = rest[len(ports.closes) :] if tuple(rest[: len(ports.closes)]) == ports.closes else rest
    said = tuple(actions) if any(actions) else ()
    return Clip(np.array(codes, np.int64), tuple(front), tuple(x for x in rest if x < ports.text), said)
