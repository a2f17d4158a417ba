"""The verbs' flags, declared apart from what the verbs do: `--help` imports no verb's libraries."""
