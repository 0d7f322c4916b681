// The plain values of the API: options that go in, reports that come out. The generated sources define and document them.

import HotsetBindings

/// How to open a bundle: device, memory budget, threads.
public typealias EngineOptions = HotsetBindings.EngineOptions

/// How a session keeps its conversation: length, what happens when it is full, the system's message.
public typealias SessionOptions = HotsetBindings.SessionOptions

/// How to answer: length, sampling, seed, texts that end the answer.
public typealias GenerateOptions = HotsetBindings.GenerateOptions

/// Which experts sessions do with; see ``HotsetEngine/useProfile(_:options:)``.
public typealias ProfileOptions = HotsetBindings.ProfileOptions

/// A generated token: its id and the text that is decided with it, always whole characters.
public typealias Token = HotsetBindings.Token

/// A part of a conversation: who says what.
public typealias Message = HotsetBindings.Message

/// Who says a ``Message``.
public typealias Role = HotsetBindings.Role

/// Why an answer ended.
public typealias StopReason = HotsetBindings.StopReason

/// How much was done for an answer, and how fast.
public typealias Statistics = HotsetBindings.Statistics

/// What an engine is made of.
public typealias ModelInfo = HotsetBindings.ModelInfo

/// What a model takes of the device's memory, and how it fares with that.
public typealias MemoryReport = HotsetBindings.MemoryReport
