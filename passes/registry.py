"""The table of our passes and conversions: the name that `-p` takes, and the class that it stands for.

Classes are written as "module:Class" strings, so that a tool which knows every pass imports only those it runs, and so
that conversions of `lowering` can be listed here although nothing in `passes` imports `lowering`. A test checks that
each entry leads to a pass of that name, and that no pass is missing.
"""

PASSES: dict[str, str] = {
    "convert-tile-to-nisa": "lowering.tile_to_nisa.convert:ConvertTileToNisaPass",
    "graph-join-sequences": "passes.graph.join_sequences:GraphJoinSequencesPass",
    "graph-reorder-rows": "passes.graph.reorder_rows:GraphReorderRowsPass",
    "graph-bound-scores": "lowering.bounded_scores:GraphBoundScoresPass",
    "graph-layout": "passes.graph.layout:GraphLayoutPass",
    "graph-fuse": "passes.graph.fuse:GraphFusePass",
    "convert-graph-to-tile": "lowering.graph_to_tile.convert:ConvertGraphToTilePass",
    "graph-auto-cast": "passes.graph.auto_cast:GraphAutoCastPass",
    "graph-absorb-gathers": "passes.graph.absorb_gathers:GraphAbsorbGathersPass",
    "graph-canonicalize": "passes.graph.canonicalize:GraphCanonicalizePass",
    "graph-pair-rows": "passes.graph.pair_rows:GraphPairRowsPass",
    "graph-band-filters": "passes.graph.band_filters:GraphBandFiltersPass",
    "graph-channels-first": "passes.graph.channels_first:GraphChannelsFirstPass",
    "graph-decompose": "passes.graph.decompose:GraphDecomposePass",
    "graph-flatten-rows": "passes.graph.flatten_rows:GraphFlattenRowsPass",
    "graph-fold-batch-norm": "passes.graph.fold_batch_norm:GraphFoldBatchNormPass",
    "graph-fold-images": "passes.graph.fold_images:GraphFoldImagesPass",
    "graph-fold-layer-norm": "passes.graph.fold_layer_norm:GraphFoldLayerNormPass",
    "graph-fold-weights": "passes.graph.fold_weights:GraphFoldWeightsPass",
    "graph-lift-scales": "passes.graph.lift_scales:GraphLiftScalesPass",
    "graph-narrow-integers": "passes.graph.narrow_integers:GraphNarrowIntegersPass",
    "graph-split-hidden": "passes.graph.split_hidden:GraphSplitHiddenPass",
    "graph-depth-first": "passes.graph.depth_first:GraphDepthFirstPass",
    "graph-split-batch": "passes.graph.split_batch:GraphSplitBatchPass",
    "graph-stagger-images": "passes.graph.stagger_images:GraphStaggerImagesPass",
    "graph-shard-pipeline": "passes.graph.shard_pipeline:GraphShardPipelinePass",
    "graph-raise-composites": "passes.graph.raise_composites:GraphRaiseCompositesPass",
    "graph-roll-layers": "passes.graph.roll_layers:GraphRollLayersPass",
    "graph-part-sums": "passes.graph.part_sums:GraphPartSumsPass",
    "graph-block-pixels": "passes.graph.block_pixels:GraphBlockPixelsPass",
    "graph-pixel-rows": "passes.graph.pixel_rows:GraphPixelRowsPass",
    "graph-partition": "passes.graph.partition:GraphPartitionPass",
    "nisa-allocate": "passes.nisa.allocate:NisaAllocatePass",
    "nisa-allocate-registers": "passes.nisa.allocate_registers:NisaAllocateRegistersPass",
    "nisa-hand-over": "passes.nisa.hand_over:NisaHandOverPass",
    "nisa-link-parts": "passes.nisa.link_parts:NisaLinkPartsPass",
    "nisa-schedule": "passes.nisa.schedule:NisaSchedulePass",
    "nisa-pin-weights": "passes.nisa.pin_weights:NisaPinWeightsPass",
    "nisa-split-queues": "passes.nisa.split_queues:NisaSplitQueuesPass",
    "nisa-synchronize": "passes.nisa.synchronize:NisaSynchronizePass",
    "nisa-verify": "passes.nisa.verify:NisaVerifyPass",
    "tile-advance-sweeps": "passes.tile.advance_sweeps:TileAdvanceSweepsPass",
    "tile-fuse-loops": "passes.tile.fuse_loops:TileFuseLoopsPass",
    "tile-interleave-parts": "passes.tile.interleave_parts:TileInterleavePartsPass",
}
"""Pass name -> "module:Class"."""
