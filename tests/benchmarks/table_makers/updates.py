"""Tables of updates: other ways to send a tuned network, and rounds of federated learning."""
from table_makers.sources import markdown, results_of


def camera() -> list[str]:
    """What was tuned, how it was sent, and what has arrived."""
    return markdown(['tuned', 'sent as', 'bytes', 'top-1'], [
        (row['tuned'], row['sent'], f"{row['bytes']:,}", f"{row['top1']:.2f} %")
        for row in results_of('updates')['camera']])


def federated() -> list[str]:
    """Bytes of each round, and accuracy after it with and without compression."""
    found = {(row['way'], row['round']): row for row in results_of('updates')['federated']}
    rows = []
    for turn in sorted(turn for way, turn in found if way == 'updates'):
        plain, update = found['float32', turn], found['updates', turn]
        rows.append((str(turn), f"{update['bytes_up']:,}", f"{update['bytes_down']:,}", f"{update['top1']:.2f} %",
                     f"{plain['top1']:.2f} %"))
    return markdown(['round', 'bytes from each client', 'bytes to each client', 'top-1', 'top-1 with float32'], rows)


MAKERS = {'updates_camera': camera, 'updates_federated': federated}
