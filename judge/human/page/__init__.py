"""The labelling page: server-rendered, without a build step, and without the internet."""
