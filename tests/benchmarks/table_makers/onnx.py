"""Tables of docs/onnx.md."""
from table_makers.sources import markdown, results_of


def onnx_models() -> list[str]:
    rows = [(f"`{row['name']}`", f"{row['artifact_bytes']:,}", f"{row['bytes']:,}", f"{row['brotli_bytes']:,}",
             f"{row['zstd_bytes']:,}", f"{row['plain_bytes']:,}",
             f"{row['load_in_inferences']:.1f} ({row['small_load_ms']:,.0f} ms)",
             f"{row['plain_load_in_inferences']:.1f} ({row['plain_load_ms']:,.0f} ms)", f"{row['inference_ratio']:.2f}",
             f"{row['more_memory_mb']:+,.0f} MB", f"{row['difference']:.0e}")
            for row in results_of('onnx_models')['rows']]
    return markdown(['model', 'artifact', 'ONNX', 'Brotli', 'zstd', 'plain ONNX', 'load', 'plain load',
                     'inference / plain', 'memory', 'difference'], rows)


def onnx_engines() -> list[str]:
    found = results_of('onnx_engines')
    rows = [(f"`{row['model']}`", f"{row['engine']} {found['engines'][row['engine']]}",
             f"{row['small_load_s']:.2f} s", f"{row['plain_load_s']:.2f} s", f"{row['small_inference_ms']:.1f} ms",
             f"{row['plain_inference_ms']:.1f} ms",
             '' if row['small_nodes'] is None else f"{row['small_nodes']} / {row['plain_nodes']}",
             f"{row['difference']:.0e}") for row in found['rows']]
    return markdown(['model', 'runtime', 'load', 'plain load', 'inference', 'plain inference', 'nodes / plain',
                     'difference'], rows)


MAKERS = {'onnx_models': onnx_models, 'onnx_engines': onnx_engines}
