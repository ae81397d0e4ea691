"""K2 has the DeepSeek-V3 architecture."""

from sglang.srt.models.deepseek_v2 import DeepseekV3ForCausalLM

EntryClass = [DeepseekV3ForCausalLM]
