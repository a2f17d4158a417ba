"""POST /v1/feedback: what an image truly shows, for apps that recognise by HTTP.

    curl --data-binary @cell.jpg \\
        'http://127.0.0.1:8002/v1/feedback?prediction_id=cells:7:…&class_id=crack'

The body is the image of the prediction, as for /v1/recognize; what is said of it stands in the
query. The answer is the JSON mapping of `visionloop.v1.SubmitFeedbackResponse`. `id` may be left
out, as in our clients; a caller who sends again after a call that broke off gives one.
"""

import uuid

from visionloop.errors import InvalidInputError
from visionloop.proto.v1 import recognition_pb2 as pb
from visionloop_inference.http_front_end import (
    SERVICE,
    FrontEnd,
    check_body,
    check_query,
    json_reply,
    seconds_of,
)
from visionloop_inference.http_message import Head, Reply

PATH = "/v1/feedback"
METHOD = f"{SERVICE}SubmitFeedback"  # what is asked for
VERDICTS = ("class_id", "class_ids", "wrong")
FIELDS = ("prediction_id", *VERDICTS, "note", "id", "image_sha256", "timeout")


class HttpFeedback:
    """One request; what its head says. Raises HttpError and InvalidInputError."""

    def __init__(self, head: Head) -> None:
        check_body(head, "the image's bytes: curl --data-binary @image.jpg")
        check_query(head, FIELDS)
        said = head.query
        self._head = head
        self._seconds = seconds_of(head)
        self._request = pb.SubmitFeedbackRequest(
            id=said.get("id", "").lower() or str(uuid.uuid4()),  # some uuidgen write capitals
            prediction_id=said.get("prediction_id", ""),
            note=said.get("note", ""),
        )
        if "prediction_id" not in said:
            raise InvalidInputError(
                "prediction_id is needed: it stands in the answer of /v1/recognize",
                field="prediction_id",
            )
        if len([name for name in VERDICTS if name in said]) != 1:
            raise InvalidInputError(
                "say one of class_id=ID (what the image shows), class_ids=ID,ID (all of it, of a "
                "model of several classes; empty: none of them) and wrong=true",
                field="verdict",
            )
        if "class_id" in said:
            self._request.class_id = said["class_id"]
        elif "class_ids" in said:
            ids = said["class_ids"].split(",") if said["class_ids"] else []
            self._request.classes.CopyFrom(pb.ClassSet(class_ids=ids))
        elif said["wrong"] != "true":
            raise InvalidInputError(
                f"wrong is {said['wrong'][:100]!r}; it is true, or left out", field="wrong"
            )
        else:
            self._request.wrong = True
        self.body_is_optional = "image_sha256" in said
        if self.body_is_optional:
            self._request.image_sha256 = said["image_sha256"]

    async def answer(self, body: bytes, front_end: FrontEnd, peer: str) -> Reply:
        """Raises VisionloopError."""
        if body and self.body_is_optional:
            raise InvalidInputError(
                "the body is an image, and image_sha256 names one: give one of them", field="image"
            )
        if not self.body_is_optional:
            self._request.image = body
        del body
        answer = await front_end.submit_feedback(self._request, self._seconds, self._head, peer)
        return await json_reply(answer)
