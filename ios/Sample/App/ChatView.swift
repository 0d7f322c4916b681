// Talking to the model, and watching it.

import Hotset
import SwiftUI

struct ChatView: View {
    @ObservedObject var chat: Chat
    let leave: () -> Void
    @State private var draft = ""

    var body: some View {
        VStack(spacing: 0) {
            Conversation(messages: chat.messages)
            Divider()
            EngineStatus(statistics: chat.statistics, memory: chat.memory)
            HStack(alignment: .bottom) {
                TextField("Message", text: $draft, axis: .vertical)
                    .lineLimit(1...5)
                    .textFieldStyle(.roundedBorder)
                if chat.answering {
                    Button("Stop", systemImage: "stop.circle.fill", action: chat.stop)
                } else {
                    Button("Send", systemImage: "arrow.up.circle.fill", action: send)
                        .disabled(draft.isEmpty)
                }
            }
            .labelStyle(.iconOnly)
            .font(.title2)
            .padding()
        }
        .navigationTitle(chat.info.name)
        .navigationBarTitleDisplayMode(.inline)
        .toolbar {
            ToolbarItem(placement: .cancellationAction) { Button("Models", action: leave) }
            ToolbarItem(placement: .primaryAction) {
                Button("New conversation", systemImage: "square.and.pencil", action: chat.startAgain).disabled(chat.answering)
            }
        }
        .alert("That did not work", isPresented: $chat.problem.isPresent) {
        } message: {
            Text(chat.problem ?? "")
        }
    }

    private func send() {
        chat.send(draft)
        draft = ""
    }
}

/// What was said, with the newest in sight.
private struct Conversation: View {
    let messages: [Message]

    var body: some View {
        ScrollViewReader { scroll in
            ScrollView {
                LazyVStack(spacing: 12) {
                    ForEach(messages.indices, id: \.self) { index in
                        Bubble(message: messages[index]).id(index)
                    }
                }
                .padding()
            }
            .onChange(of: messages.last?.text) { _ in scroll.scrollTo(messages.count - 1, anchor: .bottom) }
        }
    }
}

private struct Bubble: View {
    let message: Message

    var body: some View {
        Text(message.text.isEmpty ? "…" : message.text)
            .textSelection(.enabled)
            .padding(10)
            .background(message.role == .user ? Color.accentColor.opacity(0.2) : Color.secondary.opacity(0.1), in: RoundedRectangle(cornerRadius: 12))
            .frame(maxWidth: .infinity, alignment: message.role == .user ? .trailing : .leading)
    }
}

/// How fast the answer comes, and what the model takes.
private struct EngineStatus: View {
    let statistics: Statistics?
    let memory: MemoryReport?

    var body: some View {
        HStack {
            Text(Figures.rate(statistics?.tokensPerSecond))
            Spacer()
            if let memory {
                Text(memory.suspended ? "suspended" : "\(Figures.bytes(memory.used)) of \(memory.budget.map { Figures.bytes($0) } ?? "any")")
                Spacer()
                Text("experts at hand \(Figures.share(memory.hitRate))")
            }
        }
        .font(.caption.monospacedDigit())
        .foregroundStyle(.secondary)
        .padding([.horizontal, .top])
    }
}
