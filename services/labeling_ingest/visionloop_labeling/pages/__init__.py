"""The web pages for people: server-rendered, with a few ES modules."""
