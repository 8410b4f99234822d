"""People as the judge: a durable queue of pairs, and the page on which they are labelled."""
