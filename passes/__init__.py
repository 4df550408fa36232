"""Rewrites that stay within one level: `passes.graph`, `passes.tile`, `passes.nisa`; `registry` names them all."""
