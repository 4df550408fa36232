; y = softmax(x) along the rows of [256, 512], 128 rows at a time, as exp(x - max) / sum.
;
; The scalar engine sums the row while it takes the exponential. Buffers of two tiles rotate.
.model "softmax"
.target trn1
.semaphore load
.semaphore dve
.semaphore act
.semaphore store
.variable "x" input f32 [256, 512]
.variable "y" output f32 [256, 512]

.queue sp
  dma_copy ring load dst sbuf f32 [0:128][0 : 512] src dram f32 @x [0 : 128 step 512, 512] signal(load)
  dma_copy ring load dst sbuf f32 [0:128][512 : 512] src dram f32 @x [65536 : 128 step 512, 512] signal(load)

.queue dve
  reg_move r0, 0                 ; tile
  reg_move r1, 0                 ; its buffer
  reg_move r2, 1                 ; exponentials that must be done for the second half
tiles:
  wait(load >= r0 + 1) tensor_reduce dst sbuf f32 [0:128][r0 + 2048 : 1] data sbuf f32 [0:128][r1 : 512] {op = maximum, negate = true} signal(dve)
  wait(act >= r2) reciprocal dst sbuf f32 [0:128][r0 + 2056 : 1] data sbuf f32 [0:128][r0 + 2052 : 1] signal(dve)
  tensor_scalar dst sbuf f32 [0:128][r1 + 1024 : 512] data sbuf f32 [0:128][r1 + 1024 : 512] operand0 sbuf f32 [0:128][r0 + 2056 : 1] {op0 = multiply} signal(dve)
  reg_rotate r1, 512, 1024
  reg_add r2, r2, 1
  reg_add r0, r0, 1
  branch_less r0, 2, tiles

.queue act
  reg_move r0, 0                 ; tile
  reg_move r1, 0                 ; its buffer
  reg_move r2, 1                 ; maxima: each tile has three steps on the vector engine
tiles:
  wait(dve >= r2) activation dst sbuf f32 [0:128][r1 + 1024 : 512] data sbuf f32 [0:128][r1 : 512] bias sbuf f32 [0:128][r0 + 2048 : 1] sum sbuf f32 [0:128][r0 + 2052 : 1] {func = exp} signal(act)
  reg_rotate r1, 512, 1024
  reg_add r2, r2, 3
  reg_add r0, r0, 1
  branch_less r0, 2, tiles

.queue pool
  reg_move r0, 3                 ; steps of the vector engine until this tile is complete
  reg_move r1, 0
  reg_move r2, 0
tiles:
  wait(dve >= r0) dma_copy ring store dst dram f32 @y [r1 : 128 step 512, 512] src sbuf f32 [0:128][r2 + 1024 : 512] signal(store)
  reg_add r0, r0, 3
  reg_add r1, r1, 65536
  reg_rotate r2, 512, 1024
  branch_less r1, 131072, tiles
