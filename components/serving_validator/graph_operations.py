"""The operations that a served graph may contain: those that compute without access to anything outside the process.

This is an allow list: an operation that a later TensorFlow adds is refused until someone has reviewed it. A deny list
would have to be complete, and a hundred operations of TensorFlow read or write files alone, among them `PrintV2`,
`SaveV2` and `DatasetFromGraph`.

Not listed on purpose: files (`ReadFile`, `WriteFile`, readers, tables that are filled from a file, checkpoints), Python
(`PyFunc`, `EagerPyFunc`), printing and summaries, datasets and iterators (a dataset can contain a whole graph), other
devices and machines (`RemoteCall`, `Send`, `Recv`, collectives, RPC, TPU), compiled or custom code (`XlaCallModule`,
`XlaCustomCallV2`), queues and session handles, random numbers without their own seed.
"""

from __future__ import annotations

_MATHS = """
Abs Acos Acosh Add AddN AddV2 All Angle Any ApproximateEqual ArgMax ArgMin Asin Asinh Atan Atan2 Atanh BesselI0e
BesselI1e Betainc BitwiseAnd BitwiseOr BitwiseXor Bucketize Cast Ceil CheckNumerics CheckNumericsV2 ClipByValue
Complex ComplexAbs Conj Cos Cosh Cross Cumprod Cumsum CumulativeLogsumexp Digamma Div DivNoNan Equal Erf Erfc Erfinv
EuclideanNorm Exp Expm1 Floor FloorDiv FloorMod Greater GreaterEqual HistogramFixedWidth Igamma Igammac Imag Inv
Invert IsFinite IsInf IsNan LeftShift Less LessEqual Lgamma Log Log1p LogicalAnd LogicalNot LogicalOr Max Maximum Mean
Min Minimum Mod Mul MulNoNan Ndtri Neg NextAfter NotEqual Polygamma PopulationCount Pow Prod Real RealDiv Reciprocal
RightShift Rint Round Rsqrt Sigmoid Sign Sin Sinh Sqrt Square SquaredDifference Sub Sum Tan Tanh TruncateDiv
TruncateMod Xdivy Xlog1py Xlogy Zeta InvGrad ReciprocalGrad RsqrtGrad SigmoidGrad SqrtGrad TanhGrad
"""

_LINEAR_ALGEBRA = """
BandedTriangularSolve BatchMatMul BatchMatMulV2 BatchMatMulV3 Cholesky CholeskyGrad Diag DiagPart Eig Einsum
LogMatrixDeterminant Lu MatMul MatrixBandPart MatrixDeterminant MatrixDiag MatrixDiagPart MatrixDiagPartV2
MatrixDiagPartV3 MatrixDiagV2 MatrixDiagV3 MatrixExponential MatrixInverse MatrixLogarithm MatrixSetDiag
MatrixSetDiagV2 MatrixSetDiagV3 MatrixSolve MatrixSolveLs MatrixSquareRoot MatrixTriangularSolve Qr SelfAdjointEigV2
Svd TridiagonalMatMul TridiagonalSolve FFT FFT2D FFT3D FFTND IFFT IFFT2D IFFT3D IFFTND IRFFT IRFFT2D IRFFT3D IRFFTND
RFFT RFFT2D RFFT3D RFFTND
"""

# With their gradients: Grad-CAM is a signature.
_NEURAL_NETWORKS = """
AvgPool AvgPool3D AvgPool3DGrad AvgPoolGrad BiasAdd BiasAddGrad BiasAddV1 Conv Conv2D Conv2DBackpropFilter
Conv2DBackpropFilterV2 Conv2DBackpropInput Conv2DBackpropInputV2 Conv3D Conv3DBackpropFilterV2 Conv3DBackpropInputV2
DepthwiseConv2dNative DepthwiseConv2dNativeBackpropFilter DepthwiseConv2dNativeBackpropInput Dilation2D
Dilation2DBackpropFilter Dilation2DBackpropInput Elu EluGrad FusedBatchNorm FusedBatchNormGrad FusedBatchNormGradV2
FusedBatchNormGradV3 FusedBatchNormV2 FusedBatchNormV3 FusedPadConv2D FusedResizeAndPadConv2D InTopK InTopKV2 L2Loss
LRN LRNGrad LeakyRelu LeakyReluGrad LogSoftmax MaxPool MaxPool3D MaxPool3DGrad MaxPool3DGradGrad MaxPoolGrad
MaxPoolGradGrad MaxPoolGradGradV2 MaxPoolGradV2 MaxPoolGradWithArgmax MaxPoolV2 MaxPoolWithArgmax NthElement Relu
Relu6 Relu6Grad ReluGrad Selu SeluGrad Softmax SoftmaxCrossEntropyWithLogits Softplus SoftplusGrad Softsign
SoftsignGrad SparseSoftmaxCrossEntropyWithLogits TopK TopKV2 BlockLSTM BlockLSTMV2 CTCBeamSearchDecoder
CTCGreedyDecoder GRUBlockCell LSTMBlockCell _FusedBatchNormEx _FusedConv2D _FusedDepthwiseConv2dNative _FusedMatMul
"""

_QUANTIZATION = """
Dequantize FakeQuantWithMinMaxArgs FakeQuantWithMinMaxVars FakeQuantWithMinMaxVarsPerChannel QuantizeAndDequantize
QuantizeAndDequantizeV2 QuantizeAndDequantizeV3 QuantizeAndDequantizeV4 QuantizeDownAndShrinkRange QuantizeV2
QuantizedAdd QuantizedAvgPool QuantizedBiasAdd QuantizedConcat QuantizedConcatV2 QuantizedConv2D QuantizedMatMul
QuantizedMaxPool QuantizedMul QuantizedRelu QuantizedRelu6 QuantizedReshape QuantizedResizeBilinear
RequantizationRange Requantize UniformDequantize UniformQuantize UniformQuantizedAdd UniformQuantizedClipByValue
UniformQuantizedConvolution UniformQuantizedConvolutionHybrid UniformQuantizedDot UniformQuantizedDotHybrid
UniformRequantize
"""

_ARRAYS = """
BatchToSpace BatchToSpaceND Bincount Bitcast BroadcastArgs BroadcastGradientArgs BroadcastTo Concat ConcatOffset
ConcatV2 Const DataFormatDimMap DataFormatVecPermute DenseBincount DepthToSpace DynamicPartition DynamicStitch
EnsureShape ExpandDims ExtractImagePatches ExtractVolumePatches Fill Fingerprint Gather GatherNd GatherV2
GuaranteeConst Identity IdentityN InplaceAdd InplaceSub InplaceUpdate InvertPermutation LinSpace ListDiff LowerBound
MirrorPad MirrorPadGrad OneHot OnesLike Pack Pad PadV2 ParallelDynamicStitch Placeholder PlaceholderV2
PlaceholderWithDefault PreventGradient Range Rank Reshape Reverse ReverseSequence ReverseV2 Roll ScatterNd
ScatterNdNonAliasingAdd SegmentMax SegmentMaxV2 SegmentMean SegmentMin SegmentMinV2 SegmentProd SegmentProdV2
SegmentSum SegmentSumV2 Select SelectV2 Shape ShapeN Size Slice Snapshot SpaceToBatch SpaceToBatchND SpaceToDepth
Split SplitV Squeeze StopGradient StridedSlice StridedSliceGrad TensorScatterAdd TensorScatterMax TensorScatterMin
TensorScatterSub TensorScatterUpdate TensorStridedSliceUpdate Tile Transpose ConjugateTranspose Unique UniqueV2
UniqueWithCounts UniqueWithCountsV2 Unpack UnravelIndex UnsortedSegmentMax UnsortedSegmentMin UnsortedSegmentProd
UnsortedSegmentSum UpperBound Where ZerosLike
"""

_SPARSE_AND_RAGGED = """
DeserializeSparse RaggedBincount RaggedCross RaggedFillEmptyRows RaggedGather RaggedRange RaggedTensorFromVariant
RaggedTensorToSparse RaggedTensorToTensor RaggedTensorToVariant SerializeManySparse SerializeSparse SparseAdd
SparseBincount SparseConcat SparseCross SparseCrossHashed SparseCrossV2 SparseDenseCwiseAdd SparseDenseCwiseDiv
SparseDenseCwiseMul SparseFillEmptyRows SparseMatMul SparseReduceMax SparseReduceSum SparseReorder SparseReshape
SparseSegmentMean SparseSegmentMeanWithNumSegments SparseSegmentSqrtN SparseSegmentSqrtNWithNumSegments
SparseSegmentSum SparseSegmentSumWithNumSegments SparseSlice SparseSoftmax SparseSplit SparseTensorDenseAdd
SparseTensorDenseMatMul SparseToDense
"""

_IMAGES = """
AdjustContrast AdjustContrastv2 AdjustHue AdjustSaturation CombinedNonMaxSuppression CropAndResize
CropAndResizeGradBoxes CropAndResizeGradImage DecodeAndCropJpeg DecodeBmp DecodeGif DecodeImage DecodeJpeg DecodePng
DecodeWebP DrawBoundingBoxes DrawBoundingBoxesV2 EncodeJpeg EncodeJpegVariableQuality EncodePng ExtractGlimpse
ExtractGlimpseV2 ExtractJpegShape GenerateBoundingBoxProposals HSVToRGB ImageProjectiveTransformV2
ImageProjectiveTransformV3 NonMaxSuppression NonMaxSuppressionV2 NonMaxSuppressionV3 NonMaxSuppressionV4
NonMaxSuppressionV5 NonMaxSuppressionWithOverlaps RGBToHSV ResizeArea ResizeBicubic ResizeBicubicGrad ResizeBilinear
ResizeBilinearGrad ResizeNearestNeighbor ResizeNearestNeighborGrad ScaleAndTranslate ScaleAndTranslateGrad
"""

_STRINGS_AND_PARSING = """
AsString DecodeBase64 DecodeCSV DecodeCompressed DecodeJSONExample DecodePaddedRaw DecodeRaw EditDistance EncodeBase64
ParseExample ParseExampleV2 ParseSequenceExample ParseSequenceExampleV2 ParseSingleExample ParseSingleSequenceExample
ParseTensor ReduceJoin RegexFullMatch RegexReplace SerializeTensor StaticRegexFullMatch StaticRegexReplace
StringFormat StringJoin StringLength StringLower StringNGrams StringSplit StringSplitV2 StringStrip StringToHashBucket
StringToHashBucketFast StringToHashBucketStrong StringToNumber StringUpper Substr UnicodeDecode
UnicodeDecodeWithOffsets UnicodeEncode UnicodeScript UnicodeTranscode UnsortedSegmentJoin
"""

_CONTROL_FLOW = """
Assert Case ControlTrigger Enter Exit FakeParam For If LoopCond Merge NextIteration NoOp PartitionedCall
StatefulPartitionedCall StatelessCase StatelessIf StatelessWhile Switch SymbolicGradient While _Arg _Retval
EmptyTensorList TensorListConcat TensorListConcatLists TensorListConcatV2 TensorListElementShape TensorListFromTensor
TensorListGather TensorListGetItem TensorListLength TensorListPopBack TensorListPushBack TensorListPushBackBatch
TensorListReserve TensorListResize TensorListScatter TensorListScatterIntoExistingList TensorListScatterV2
TensorListSetItem TensorListSplit TensorListStack TensorArrayCloseV3 TensorArrayConcatV3 TensorArrayGatherV3
TensorArrayGradV3 TensorArrayReadV3 TensorArrayScatterV3 TensorArraySizeV3 TensorArraySplitV3 TensorArrayV3
TensorArrayWriteV3
"""

# Filled from constants, never from a file, not even from one of the model's own assets.
_LOOKUP_TABLES = """
AnonymousHashTable HashTable HashTableV2 InitializeTable InitializeTableV2 LookupTableFind LookupTableFindV2
LookupTableImport LookupTableImportV2 LookupTableSize LookupTableSizeV2
"""

_VARIABLES = (
    "VarHandleOp ReadVariableOp ResourceGather ResourceGatherNd VariableShape VarIsInitializedOp Variable VariableV2"
)

# Deterministic: the seed is an input.
_RANDOM = """
RandomIndexShuffle StatelessMultinomial StatelessParameterizedTruncatedNormal StatelessRandomBinomial
StatelessRandomGammaV2 StatelessRandomGammaV3 StatelessRandomGetAlg StatelessRandomGetKeyCounter
StatelessRandomGetKeyCounterAlg StatelessRandomNormal StatelessRandomNormalV2 StatelessRandomPoisson
StatelessRandomUniform StatelessRandomUniformFullInt StatelessRandomUniformFullIntV2 StatelessRandomUniformInt
StatelessRandomUniformIntV2 StatelessRandomUniformV2 StatelessSampleDistortedBoundingBox StatelessShuffle
StatelessTruncatedNormal StatelessTruncatedNormalV2
"""

# Allowed in every part of the graph.
COMPUTING = frozenset(
    " ".join(
        [
            _MATHS,
            _LINEAR_ALGEBRA,
            _NEURAL_NETWORKS,
            _QUANTIZATION,
            _ARRAYS,
            _SPARSE_AND_RAGGED,
            _IMAGES,
            _STRINGS_AND_PARSING,
            _CONTROL_FLOW,
            _LOOKUP_TABLES,
            _VARIABLES,
            _RANDOM,
        ]
    ).split()
)

# These assign variables. They are allowed while a model is loaded, not while it responds to requests.
PREPARING = frozenset(["Assign", "AssignVariableOp", "DisableCopyOnRead"])

# Allowed only in the saver of a SavedModel, which reads and writes the model's own variables.
RESTORING = frozenset(["RestoreV2"])
SAVING = frozenset(["MergeV2Checkpoints", "SaveV2", "ShardedFilename"])
