"""What can be wrong with an annotator's request; the page turns each into its HTTP status.

QueueRefusal
|- UnknownLease    404  no such lease, or somebody else's: the two are not told apart
|- Conflict        409  the lease was used for another label already
|- LeaseExpired    410  held too long; the label is kept as late where its round is sealed
|- RoundSealed     410  the round ended; the label is kept as late
|- TooFast         429  sooner than min_dwell_s, or more than labels_per_minute; retry_after_s says when
|- Quarantined     403  gold answers below the bar; an administrator can lift it
'- Invalid         422  the submission itself is wrong
"""

from rollout.errors import RondoError


class QueueRefusal(RondoError):
    """A request on the queue that changes no label; the message is for the annotator."""

    status = 400


class UnknownLease(QueueRefusal):
    """There is no such lease for this annotator."""

    status = 404


class Conflict(QueueRefusal):
    """The lease has another label already."""

    status = 409


class LeaseExpired(QueueRefusal):
    """The lease ended before the label came."""

    status = 410


class RoundSealed(QueueRefusal):
    """The round was sealed before the label came."""

    status = 410


class TooFast(QueueRefusal):
    """The label came too soon after the pair was shown, or after too many others."""

    status = 429

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message, retry_after_s)
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return str(self.args[0])


class Quarantined(QueueRefusal):
    """The annotator's gold answers are below the bar."""

    status = 403


class Invalid(QueueRefusal):
    """The submission is not one that the round takes."""

    status = 422
