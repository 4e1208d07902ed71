"""Jobs whose results are plain texts: what the store is tested with, light to import."""


def text_jobs(count):
    """Jobs whose result is a text."""
    return {f"{i:032x}": {"output": f"{i}.txt", "request": {"seed": i}} for i in range(count)}


def make(store, lease, text=None):
    """Publishes the text that a job stands for."""
    path = store.temporary(lease.key, ".txt")
    path.write_text(text or f"result {lease.key}")
    return store.publish(lease, path, {"seconds": 0.0})
