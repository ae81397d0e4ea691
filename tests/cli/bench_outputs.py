"""What aiperf 0.13.0, guidellm 0.8.1 and perf_analyzer 2.44.0 wrote in runs against a real server, shortened."""

from __future__ import annotations

AIPERF = """{
  "schema_version": "1.4", "aiperf_version": "0.13.0",
  "request_throughput": {"unit": "requests/sec", "avg": 11.5},
  "request_latency": {"unit": "ms", "avg": 1318.3, "p1": 1268.7, "p50": 1314.2, "p90": 1365.6, "p95": 1367.5,
                      "p99": 1373.8, "min": 1268.3, "max": 1374.5, "std": 31.2, "count": 64},
  "request_count": {"unit": "requests", "avg": 64.0},
  "time_to_first_token": {"unit": "ms", "avg": 169.2, "p50": 62.8, "p90": 518.3, "p95": 519.5, "p99": 525.7},
  "inter_token_latency": {"unit": "ms", "avg": 17.7, "p50": 19.2, "p90": 19.5, "p95": 19.7, "p99": 20.0},
  "output_token_throughput": {"unit": "tokens/sec", "avg": 757.1},
  "request_error_rate": {"unit": "%", "avg": 0.0},
  "was_cancelled": false, "is_complete": true, "error_summary": []
}"""

GUIDELLM = """{
  "metadata": {"version": 2, "guidellm_version": "0.8.1"},
  "config": {"metadata": {"labels": {}}},
  "benchmarks": [{
    "type_": "generative_benchmark",
    "metrics": {
      "request_totals": {"successful": 20, "errored": 0, "incomplete": 0, "total": 20},
      "requests_per_second": {"successful": {"mean": 1.2, "median": 1.16}},
      "request_latency": {"successful": {"mean": 1.88, "median": 1.3, "count": 20, "percentiles":
        {"p001": 0.99, "p01": 0.99, "p50": 1.3, "p75": 1.54, "p90": 2.38, "p95": 6.61, "p99": 6.63, "p999": 6.63}}},
      "output_token_count": {"successful": {"mean": 32.0, "count": 20, "total_sum": 640.0}},
      "time_to_first_token_ms": {"successful": {"mean": 274.0, "median": 122.6, "count": 20, "percentiles":
        {"p001": 63.8, "p01": 63.8, "p50": 122.6, "p75": 144.4, "p90": 252.2, "p95": 1110.7, "p99": 2061.7}}},
      "inter_token_latency_ms": {"successful": {"mean": 51.3, "median": 38.2, "count": 620, "percentiles":
        {"p001": 28.0, "p01": 28.0, "p50": 38.2, "p75": 42.9, "p90": 71.2, "p95": 147.4, "p99": 177.2}}}
    },
    "duration": 20.0
  }],
  "conclusions": []
}"""

# Tensors of bytes are in it as they are: four bytes of a length, which may be no UTF-8 and no valid JSON.
PERF_ANALYZER = (
    b'{"experiments":[{"experiment":{"mode":"concurrency","value":2},"requests":['
    b'{"timestamp":1795734205000000000,"response_timestamps":[1795734205100000000,1795734205140000000,'
    b'1795734205180000000],"response_outputs":[{"text_output":"\x01\x00\x00\x00I","num_output_tokens":"\xc2\x1f"}]},'
    b'{"timestamp":1795734205000000000,"response_timestamps":[1795734205300000000,1795734205500000000],'
    b'"response_outputs":[{"finish_reason":"\x06\x00\x00\x00length"}]}'
    b'],"window_boundaries":[1795734205000000000,1795734206000000000]}],"version":"2.44.0"}'
)
