; y = (x - mean) / sqrt(variance + eps) * gamma + beta along the rows of [256, 768], 128 rows at a time.
;
; gamma and beta are parameters of the model; a transfer with stride 0 gives every partition a copy of them.
.model "layer_norm"
.target trn1
.semaphore fixed
.semaphore load
.semaphore dve
.semaphore act
.semaphore store
.variable "x" input f32 [256, 768]
.variable "gamma" file f32 [768]
.variable "beta" file f32 [768]
.variable "y" output f32 [256, 768]

.queue sp
  dma_copy ring fixed dst sbuf f32 [0:128][0 : 768] src dram f32 @gamma [0 : 128 step 0, 768] signal(fixed)
  dma_copy ring fixed dst sbuf f32 [0:128][768 : 768] src dram f32 @beta [0 : 128 step 0, 768] signal(fixed)
  reg_move r0, 0                 ; first element of this tile's rows
  reg_move r1, 0                 ; its buffer
tiles:
  dma_copy ring load dst sbuf f32 [0:128][r1 + 1536 : 768] src dram f32 @x [r0 : 128 step 768, 768] signal(load)
  reg_add r1, r1, 768
  reg_add r0, r0, 98304
  branch_less r0, 196608, tiles

.queue dve
  reg_move r0, 1                 ; loads that this tile needs
  reg_move r1, 0                 ; its buffer
  wait(fixed >= 2) memset dst sbuf f32 [0:128][3087 : 1] {value = 1e-05}
tiles:
  ; bn_stats takes at most 512 elements: each half of the row gives six numbers, bn_aggr puts them together.
  wait(load >= r0) bn_stats dst sbuf f32 [0:128][3072 : 6] data sbuf f32 [0:128][r1 + 1536 : 384]
  bn_stats dst sbuf f32 [0:128][3078 : 6] data sbuf f32 [0:128][r1 + 1920 : 384]
  bn_aggr dst sbuf f32 [0:128][3084 : 2] data sbuf f32 [0:128][3072 : 12] signal(dve)
  wait(act >= r0) tensor_scalar dst sbuf f32 [0:128][r1 + 1536 : 768] data sbuf f32 [0:128][r1 + 1536 : 768] operand0 sbuf f32 [0:128][3084 : 1] operand1 sbuf f32 [0:128][3086 : 1] {op0 = subtract, op1 = multiply}
  tensor_tensor dst sbuf f32 [0:128][r1 + 1536 : 768] data sbuf f32 [0:128][r1 + 1536 : 768] other sbuf f32 [0:128][0 : 768] {op = multiply}
  tensor_tensor dst sbuf f32 [0:128][r1 + 1536 : 768] data sbuf f32 [0:128][r1 + 1536 : 768] other sbuf f32 [0:128][768 : 768] {op = add} signal(dve)
  reg_add r0, r0, 1
  reg_add r1, r1, 768
  branch_less r0, 3, tiles

.queue act
  reg_move r0, 1                 ; steps of the vector engine that this tile needs: two for each tile before it
tiles:
  wait(dve >= r0) activation dst sbuf f32 [0:128][3086 : 1] data sbuf f32 [0:128][3085 : 1] bias sbuf f32 [0:128][3087 : 1] {func = rsqrt} signal(act)
  reg_add r0, r0, 2
  branch_less r0, 5, tiles

.queue pool
  reg_move r0, 2
  reg_move r1, 0
  reg_move r2, 0
tiles:
  wait(dve >= r0) dma_copy ring store dst dram f32 @y [r1 : 128 step 768, 768] src sbuf f32 [0:128][r2 + 1536 : 768] signal(store)
  reg_add r1, r1, 98304
  reg_add r2, r2, 768
  reg_add r0, r0, 2
  branch_less r0, 5, tiles
