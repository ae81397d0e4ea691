"""The engine's metrics fill SGLang's own Grafana dashboard."""

from __future__ import annotations

import pytest
import triton_python_backend_utils as triton

from kimi_k2_serving.engine.port import Load
from kimi_k2_serving.engine.totals import FinishedRequest, Totals
from kimi_k2_serving.triton.engine.metrics import EngineMetrics, Own

# Every series that a panel of the dashboard in SGLang's repository (examples/monitoring/grafana) asks for. It selects
# them by `model_name`.
DASHBOARD = (
    "sglang:e2e_request_latency_seconds_bucket",
    "sglang:e2e_request_latency_seconds_sum",
    "sglang:e2e_request_latency_seconds_count",
    "sglang:time_to_first_token_seconds_bucket",
    "sglang:time_to_first_token_seconds_sum",
    "sglang:time_to_first_token_seconds_count",
    "sglang:num_running_reqs",
    "sglang:num_queue_reqs",
    "sglang:gen_throughput",
    "sglang:cache_hit_rate",
)
FURTHER = (
    "sglang:inter_token_latency_seconds_bucket",
    "sglang:prompt_tokens_total",
    "sglang:cached_tokens_total",
    "sglang:generation_tokens_total",
    "sglang:num_requests_total",
    "sglang:num_used_tokens",
    "sglang:max_total_num_tokens",
    "sglang:token_usage",
)


def test_every_series_of_sglangs_dashboard_is_on_the_page_with_its_label() -> None:
    now = [0.0]
    metrics = EngineMetrics("m", clock=lambda: now[0])
    own = Own(waiting=0, prompt_tokens=0, ready=True)
    metrics.flush(Load(), own)
    now[0] = 2.0
    made = Totals().adding([FinishedRequest(100, 60, 11, 0.5, 1.5)], 11)
    metrics.flush(Load(3, 2, 0.5, kv_used=50, kv_capacity=100, totals=made), own)

    def value(name: str, le: str | None = None) -> float:
        (found,) = [each for each in triton.MetricFamily.made[name] if each.labels.get("le") == le]
        assert found.labels["model_name"] == found.labels["model"] == "m"
        return float(found.value)

    for name in (*DASHBOARD, *FURTHER):
        assert value(name, "+Inf" if name.endswith("_bucket") else None) > 0, name
    assert value("sglang:time_to_first_token_seconds_bucket", "0.4") == 0
    assert value("sglang:time_to_first_token_seconds_bucket", "0.6") == 1
    assert value("sglang:gen_throughput") == pytest.approx(5.5)
    assert value("sglang:cache_hit_rate") == pytest.approx(0.6)
