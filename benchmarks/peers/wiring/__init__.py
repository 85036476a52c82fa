"""One module a peer, wired as its documentation recommends."""
